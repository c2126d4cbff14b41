"""The MONAI Application Package: its build context, up to the step that needs docker."""
