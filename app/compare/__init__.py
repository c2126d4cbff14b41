"""The local answer beside a cloud model's: what may leave the house, the call, the record.

`guard` says which images may leave, `picture` draws their pixels anew, `claude` sends
one and judges the answer's form, `record` keeps both answers.
"""
