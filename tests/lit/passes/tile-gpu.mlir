// RUN: python %S/../make_weights.py %t.safetensors table=50x64:f32 q=64x64:f32:hp:rows=64,window=in,keep=1/4,fine=dense k=64x64:f32 down=64x64:f32
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-gpu{target="gpu-sm80"},hpcc-verify-stage{stage=tile kind="gpu"}' | filecheck %s
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-gpu{target="gpu-sm90" precision="int8"},hpcc-verify-stage{stage=tile kind="gpu"}' | filecheck %s --check-prefix=BYTES

builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%ids: tensor<1x80xi64>, %mask: tensor<1x80xi64>) -> tensor<1x80x64xf32> attributes {input_names = ["ids", "mask"], output_names = ["y"]} {
    %table = hpcc_nn.weight "table" digest "1" : tensor<50x64xf32>
    %q = hpcc_nn.weight "q" digest "2" : tensor<64x64xf32>
    %k = hpcc_nn.weight "k" digest "3" : tensor<64x64xf32>
    %down = hpcc_nn.weight "down" digest "4" : tensor<64x64xf32>
    // CHECK: %[[X:.*]] = hpcc_gpu.embedding {{.*}} -> !hpcc_gpu.buffer<64 x tokens, at 0>
    %x = hpcc_nn.embedding %ids of %table : tensor<1x80xi64> of tensor<50x64xf32> -> tensor<1x80x64xf32>
    // The kernel follows the weights: the rows of a tile share their inputs, or every input is used.
    // CHECK: %[[Q:.*]] = hpcc_gpu.linear "layer.0.attn.q" %[[X]], %{{.*}} by gather tile {{.*}} then none : {{.*}} -> !hpcc_gpu.buffer<64 x tokens, at 64>
    // CHECK: %[[K:.*]] = hpcc_gpu.linear "layer.0.attn.k" %[[X]], %{{.*}} by dense tile {{.*}} then none : {{.*}} at 128>
    // One quantisation serves all that read it.
    // BYTES: %[[C:.*]] = hpcc_gpu.quantize %{{.*}} -> !hpcc_gpu.buffer<64 x codes, at 0>
    // BYTES-NOT: hpcc_gpu.quantize
    // BYTES: hpcc_gpu.linear "layer.0.attn.q" %[[C]], %{{.*}} by gather
    // BYTES: hpcc_gpu.linear "layer.0.attn.k" %[[C]], %{{.*}} by dense
    %a = hpcc_nn.linear "layer.0.attn.q" %x, %q : tensor<1x80x64xf32>, tensor<64x64xf32> -> tensor<1x80x64xf32>
    %b = hpcc_nn.linear "layer.0.attn.k" %x, %k : tensor<1x80x64xf32>, tensor<64x64xf32> -> tensor<1x80x64xf32>
    // CHECK: hpcc_gpu.attention "layer.0.attn" %[[Q]], %[[K]], %[[K]] mask %{{.*}} heads 4 : i64
    %c = hpcc_nn.attention "layer.0.attn" %a, %b, %b mask %mask heads 4 : i64 scale 0.5 : f32 : tensor<1x80x64xf32>, tensor<1x80x64xf32>, tensor<1x80x64xf32>, tensor<1x80xi64> -> tensor<1x80x64xf32>
    // The sum and the activation that follow a linear are part of it.
    // CHECK: hpcc_gpu.linear "layer.0.ffn.down" %{{.*}}, %{{.*}} residual %[[X]] by dense {{.*}} then gelu : {{.*}}
    // CHECK-NEXT: func.return
    %d = hpcc_nn.linear "layer.0.ffn.down" %c, %down : tensor<1x80x64xf32>, tensor<64x64xf32> -> tensor<1x80x64xf32>
    %e = hpcc_nn.binary add %d, %x : tensor<1x80x64xf32>, tensor<1x80x64xf32> -> tensor<1x80x64xf32>
    %f = hpcc_nn.activation gelu %e : tensor<1x80x64xf32> -> tensor<1x80x64xf32>
    func.return %f : tensor<1x80x64xf32>
  }
}
