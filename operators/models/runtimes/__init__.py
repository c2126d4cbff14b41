"""What calls a network: torch, ONNX Runtime or OpenVINO, behind one small interface.

`interface` says what a runtime is; `in_torch`, `in_onnxruntime` and `in_openvino` are the
three. `export` writes what the latter two read and compares its answers with torch's;
`record` decides whether an export may be used; `serve` chooses among those that may, by
one measurement that is kept. Without an export, torch runs and nothing is measured.
"""
