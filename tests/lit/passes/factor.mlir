// RUN: python %S/../make_weights.py %t.safetensors q=64x64:f32
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="low_rank:rank=4"},hpcc-factor' | filecheck %s
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="monarch:4:rank=1"},hpcc-factor' | filecheck %s --check-prefix=MONARCH
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="nm:2:4"},hpcc-factor' | filecheck %s --check-prefix=OTHER

builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%x: tensor<1x4x64xf32>) -> tensor<1x4x64xf32> {
    // The right factor reads the inputs, the left one makes the outputs.
    // CHECK-DAG: %[[RIGHT:.*]] = hpcc_nn.weight "q.low_rank:rank=4.right" digest "{{[0-9a-f]+}}" : tensor<4x64xf32>
    // CHECK-DAG: %[[LEFT:.*]] = hpcc_nn.weight "q.low_rank:rank=4.left" digest "{{[0-9a-f]+}}" : tensor<64x4xf32>
    // CHECK: %[[H:.*]] = hpcc_nn.linear "layer.0.attn.q.basis" %{{.*}}, %[[RIGHT]] {hpcc.factor_of = "low_rank:rank=4"}
    // CHECK-SAME: -> tensor<1x4x4xf32>
    // CHECK: hpcc_nn.linear "layer.0.attn.q" %[[H]], %[[LEFT]] {hpcc.factor_of = "low_rank:rank=4"}
    // MONARCH: hpcc_nn.weight "q.monarch:4:rank=1.right" {{.*}} : tensor<16x64xf32, #hpcc_sparsity.nm<1:4>>
    // MONARCH: hpcc_nn.linear "layer.0.attn.q.basis"
    // OTHER: hpcc_nn.weight "q.nm:2:4"
    // OTHER-NOT: factor_of
    %q = hpcc_nn.weight "q" digest "1" : tensor<64x64xf32>
    %0 = hpcc_nn.linear "layer.0.attn.q" %x, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    func.return %0 : tensor<1x4x64xf32>
  }
}
