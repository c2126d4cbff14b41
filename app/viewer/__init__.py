"""The viewer: OHIF's files and a read-only way to Orthanc, under one origin."""
