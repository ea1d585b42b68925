// RUN: not hpcc-opt %s -p 'hpcc-tile' 2>&1 | filecheck %s

// A bf16 argument: the device has no way in for it.
// CHECK:     {{^}}error: the device has no place for a tensor that an instruction reads (ids, 0/1 masks and fp32 activations can enter the device) [HPCC1406]{{$}}
// CHECK-NOT: {{.}}
func.func @main(%x: tensor<4x64xbf16>) -> tensor<4x64xf32> {
  %g = hpcc_nn.weight "g" digest "1" : tensor<64xf32>
  %b = hpcc_nn.weight "b" digest "2" : tensor<64xf32>
  %0 = hpcc_nn.layer_norm %x, %g, %b eps 1.0e-5 : f32 : tensor<4x64xbf16>, tensor<64xf32>, tensor<64xf32> -> tensor<4x64xbf16>
  %1 = hpcc_nn.cast %0 : tensor<4x64xbf16> -> tensor<4x64xf32>
  func.return %1 : tensor<4x64xf32>
}
