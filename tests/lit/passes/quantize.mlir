// RUN: python %S/../make_weights.py %t.safetensors q=64x64:f32 up=64x128:f32 table=10x64:f32
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-quantize,hpcc-verify-stage{stage=quantize}' | filecheck %s
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="nm:2:4"},hpcc-quantize' | filecheck %s --check-prefix=SPARSE
// RUN: not hpcc-opt %t.mlir -p 'hpcc-quantize,hpcc-quantize' 2>&1 | filecheck %s --check-prefix=AGAIN

// AGAIN: error: hpcc_nn.{{.*}} has no integer form {{.*}} [HPCC1410]

builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%ids: tensor<1x4xi64>, %mask: tensor<1x4xi64>) -> tensor<1x4x128xf32> {
    %q = hpcc_nn.weight "q" digest "1" : tensor<64x64xf32>
    %up = hpcc_nn.weight "up" digest "2" stored "io" : tensor<128x64xf32>
    %table = hpcc_nn.weight "table" digest "3" : tensor<10x64xf32>

    // Tables are bf16, their sums fp32; the tensor is stored as bf16 and quantised once for all its readers.
    // CHECK:      %[[TABLE:.*]] = hpcc_nn.weight "table.bf16" digest "{{[0-9a-f]+}}" : tensor<10x64xbf16>
    // CHECK-NEXT: %[[SUM:.*]] = hpcc_nn.embedding %ids of %[[TABLE]] : {{.*}} -> tensor<1x4x64xf32>
    // CHECK-NEXT: %[[X:.*]] = hpcc_nn.cast %[[SUM]] : tensor<1x4x64xf32> -> tensor<1x4x64xbf16>
    %x = hpcc_nn.embedding %ids of %table : tensor<1x4xi64> of tensor<10x64xf32> -> tensor<1x4x64xf32>

    // CHECK-NEXT: %[[C:.*]], %[[S:.*]] = hpcc_nn.quantize token %[[X]] : tensor<1x4x64xbf16> -> tensor<1x4x64xi8>, tensor<1x4x1xf32>
    // CHECK-NEXT: %[[W:.*]] = hpcc_nn.weight "q.codes" digest "{{[0-9a-f]+}}" : tensor<64x64xi8>
    // CHECK-NEXT: %[[WS:.*]] = hpcc_nn.weight "q.scale" digest "{{[0-9a-f]+}}" : tensor<64xf32>
    // CHECK-NEXT: %[[Q:.*]] = hpcc_nn.qlinear "layer.0.attn.q" %[[C]], %[[S]], %[[W]], %[[WS]] :
    // SPARSE:     hpcc_nn.weight "q.nm:2:4.codes" digest "{{[0-9a-f]+}}" : tensor<64x64xi8, #hpcc_sparsity.nm<2:4>>
    // SPARSE-NEXT: hpcc_nn.weight "q.nm:2:4.scale" digest "{{[0-9a-f]+}}" : tensor<64xf32>
    %0 = hpcc_nn.linear "layer.0.attn.q" %x, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>

    // CHECK-NEXT: hpcc_nn.cast %[[Q]]
    // CHECK-NEXT: hpcc_nn.quantize token_head {{.*}} -> tensor<1x4x64xi8>, tensor<1x4x2xf32>
    // CHECK-NEXT: hpcc_nn.quantize token_head %[[X]] : {{.*}} -> tensor<1x4x64xi8>, tensor<1x4x2xf32>
    // CHECK-NEXT: hpcc_nn.quantize sequence_head %[[X]] mask %mask : {{.*}} -> tensor<1x4x64xi8>, tensor<1x1x2xf32>
    // CHECK-NEXT: hpcc_nn.qattention "layer.0.attn" {{.*}} mask %mask heads 2
    // CHECK-NEXT: hpcc_nn.cast {{.*}} : tensor<1x4x64xf32> -> tensor<1x4x64xbf16>
    // CHECK-NEXT: hpcc_nn.quantize token
    %1 = hpcc_nn.attention "layer.0.attn" %0, %x, %x mask %mask heads 2 : i64 scale 0.25 : f32 : tensor<1x4x64xf32>, tensor<1x4x64xf32>, tensor<1x4x64xf32>, tensor<1x4xi64> -> tensor<1x4x64xf32>

    // The addition is the linear's residual: the bf16 tensor, not its codes.
    // CHECK-NEXT: hpcc_nn.qlinear "layer.0.attn.o" {{.*}} residual %[[X]] :
    // CHECK-NOT:  hpcc_nn.binary
    %2 = hpcc_nn.linear "layer.0.attn.o" %1, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    %3 = hpcc_nn.binary add %x, %2 : tensor<1x4x64xf32>, tensor<1x4x64xf32> -> tensor<1x4x64xf32>

    // A transposed weight is coded in the logical layout; activations are bf16; the output keeps its type.
    // CHECK:      hpcc_nn.weight "up.codes" digest "{{[0-9a-f]+}}" : tensor<128x64xi8>
    // CHECK:      %[[U:.*]] = hpcc_nn.qlinear "layer.0.ffn.up"
    // CHECK-NEXT: %[[B:.*]] = hpcc_nn.cast %[[U]] : tensor<1x4x128xf32> -> tensor<1x4x128xbf16>
    // CHECK-NEXT: %[[G:.*]] = hpcc_nn.activation gelu %[[B]] : tensor<1x4x128xbf16> -> tensor<1x4x128xbf16>
    // CHECK-NEXT: %[[R:.*]] = hpcc_nn.cast %[[G]] : tensor<1x4x128xbf16> -> tensor<1x4x128xf32>
    // CHECK-NEXT: func.return %[[R]]
    %4 = hpcc_nn.linear "layer.0.ffn.up" %3, %up : tensor<1x4x64xf32>, tensor<128x64xf32> -> tensor<1x4x128xf32>
    %5 = hpcc_nn.activation gelu %4 : tensor<1x4x128xf32> -> tensor<1x4x128xf32>
    func.return %5 : tensor<1x4x128xf32>
  }
}
