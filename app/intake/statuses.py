"""What the listener answers to a C-STORE (PS3.4 B.2.3).

0x0000 only for an instance that is durable and in the journal. A7xx asks the
sender to try again later; C0xx says that sending the same again is of no use, or
that something here is broken.
"""

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700  # disk full or reserve reached
BAD_UID = 0xC001  # an Affected SOP Class or Instance UID that is none
FILE_FAILED = 0xC002
JOURNAL_FAILED = 0xC003
TOO_LARGE = 0xC004  # beyond max_instance_bytes
EMPTY = 0xC005  # no data set, or one of no bytes
NO_SUCH_CLASS = 0x0122  # PS3.7 C.5.6: the context is of a service that stores nothing
