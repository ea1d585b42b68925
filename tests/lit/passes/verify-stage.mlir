// RUN: hpcc-opt %s -p 'hpcc-verify-stage{stage=import},hpcc-verify-stage{stage=fuse},hpcc-verify-stage{stage=sparsify}' | filecheck %s
// RUN: not hpcc-opt %s -p 'hpcc-verify-stage{stage=quantize}' 2>&1 | filecheck %s --check-prefix=QUANTIZE
// RUN: not hpcc-opt %s -p 'hpcc-verify-stage{stage=tile}' 2>&1 | filecheck %s --check-prefix=TILE
// RUN: not hpcc-opt %s -p 'hpcc-verify-stage{stage=fused}' 2>&1 | filecheck %s --check-prefix=UNKNOWN
// RUN: sed 's|binary add|binary div|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-verify-stage{stage=fuse}' 2>&1 | filecheck %s --check-prefix=LEFT
// RUN: hpcc-opt %t.mlir -p 'hpcc-verify-stage{stage=import}' | filecheck %s --check-prefix=ELEMENTARY

// It changes nothing; what may stand after one stage may not after another, and the op's ONNX node is named.
// CHECK: hpcc_nn.linear "layer.0.ffn.up" %x, %w : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
// CHECK-NEXT: hpcc_nn.binary add %0, %x
// ELEMENTARY: hpcc_nn.binary div
// QUANTIZE: {{^}}node '/up/MatMul': error: 'hpcc_nn.linear': may not stand after stage 'quantize' [HPCC1430]{{$}}
// QUANTIZE-NOT: {{.}}
// TILE: {{^}}error: 'hpcc_nn.weight': may not stand after stage 'tile' [HPCC1430]{{$}}
// TILE-NOT: {{.}}
// UNKNOWN: {{^}}error: there is no stage 'fused' (stages: import, fuse, sparsify, quantize, encode, tile, schedule, emit) [HPCC2304]{{$}}
// UNKNOWN-NOT: {{.}}
// LEFT: {{^}}error: 'hpcc_nn.binary': an elementary 'div' is left over [HPCC1430]{{$}}
// LEFT-NOT: {{.}}
func.func @main(%x: tensor<1x4x64xf32>) -> tensor<1x4x64xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<64x64xf32>
  %0 = hpcc_nn.linear "layer.0.ffn.up" %x, %w : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32> loc("/up/MatMul")
  %1 = hpcc_nn.binary add %0, %x : tensor<1x4x64xf32>, tensor<1x4x64xf32> -> tensor<1x4x64xf32>
  func.return %1 : tensor<1x4x64xf32>
}
