"""ONNX in, program out: the lowering pipeline of hpcc."""
