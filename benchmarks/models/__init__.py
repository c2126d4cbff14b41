"""Networks: torch, ONNX Runtime and OpenVINO against the machine's own limit, and whole volumes."""
