"""Load + volume + SEG + SR of one CT: radloop against the MONAI Deploy App SDK's own operators."""
