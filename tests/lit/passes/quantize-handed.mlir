// RUN: python %S/../make_weights.py %t.safetensors q=64x64:f32
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-quantize,hpcc-verify-stage{stage=quantize}' | filecheck %s

// An instruction writes one form of a value. What the second part reads in bf16 is handed over in bf16, be it as it is or
// reshaped; what the host alone reads is handed over in fp32.
builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%x: tensor<1x4x64xf32>) -> (tensor<1x4x64xf32>, tensor<1x4x4x16xf32>, tensor<4x64xf32>, tensor<1x4x64xf32>) attributes {output_parts = [0, 0, 0, 1]} {
    %q = hpcc_nn.weight "q" digest "1" : tensor<64x64xf32>
    // CHECK: %[[Y:.*]] = hpcc_nn.qlinear "head.0"
    // CHECK: %[[H:.*]] = hpcc_nn.reshape %[[Y]]
    // CHECK: %[[Z:.*]] = hpcc_nn.qlinear "head.1"
    // CHECK: %[[R:.*]] = hpcc_nn.reshape %[[Z]]
    // CHECK-DAG: %[[B:.*]] = hpcc_nn.cast %[[Y]] : tensor<1x4x64xf32> -> tensor<1x4x64xbf16>
    // CHECK-DAG: %[[C:.*]] = hpcc_nn.cast %[[H]] : tensor<1x4x4x16xf32> -> tensor<1x4x4x16xbf16>
    // CHECK-DAG: %[[BF:.*]] = hpcc_nn.cast %[[B]] : tensor<1x4x64xbf16> -> tensor<1x4x64xf32>
    // CHECK-DAG: %[[CF:.*]] = hpcc_nn.cast %[[C]] : tensor<1x4x4x16xbf16> -> tensor<1x4x4x16xf32>
    // CHECK: hpcc_nn.hand_over ["y", "h", "z"] %[[BF]], %[[CF]], %[[R]]
    %y = hpcc_nn.linear "head.0" %x, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    %h = hpcc_nn.reshape %y : tensor<1x4x64xf32> -> tensor<1x4x4x16xf32>
    %z = hpcc_nn.linear "head.1" %x, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    %r = hpcc_nn.reshape %z : tensor<1x4x64xf32> -> tensor<4x64xf32>
    %0, %1, %2 = hpcc_nn.hand_over ["y", "h", "z"] %y, %h, %r : tensor<1x4x64xf32>, tensor<1x4x4x16xf32>, tensor<4x64xf32> -> tensor<1x4x64xf32>, tensor<1x4x4x16xf32>, tensor<4x64xf32>
    %3 = hpcc_nn.linear "head.2" %y, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    func.return %0, %1, %2, %3 : tensor<1x4x64xf32>, tensor<1x4x4x16xf32>, tensor<4x64xf32>, tensor<1x4x64xf32>
  }
}
