// RUN: python %S/../make_weights.py %t.safetensors table=50x40:f32 q=40x40:f32:hp:rows=4,window=in,keep=1/4,fine=dense k=40x40:f32 down=40x40:f32:unstructured:0.9
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-cpu{target="cpu-avx512"},hpcc-verify-stage{stage=tile kind="cpu"}' | filecheck %s
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-cpu{target="cpu-avx512-vnni" precision="int8"},hpcc-verify-stage{stage=tile kind="cpu"}' | filecheck %s --check-prefix=BYTES
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-cpu{target="cpu-avx512-vbmi" precision="int8"},hpcc-verify-stage{stage=tile kind="cpu"}' | filecheck %s --check-prefix=PICKS
// RUN: hpcc-opt %t.mlir -p 'hpcc-tile-cpu{target="cpu-amx" precision="int8"},hpcc-verify-stage{stage=tile kind="cpu"}' | filecheck %s --check-prefix=TILES

builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%ids: tensor<1x80xi64>, %mask: tensor<1x80xi64>) -> tensor<1x80x40xf32> attributes {input_names = ["ids", "mask"], output_names = ["y"]} {
    %table = hpcc_nn.weight "table" digest "1" : tensor<50x40xf32>
    %q = hpcc_nn.weight "q" digest "2" : tensor<40x40xf32>
    %k = hpcc_nn.weight "k" digest "3" : tensor<40x40xf32>
    %down = hpcc_nn.weight "down" digest "4" : tensor<40x40xf32>
    // Buffers get places; 40 features take 48 rows.
    // CHECK: %[[X:.*]] = hpcc_cpu.embedding {{.*}} -> !hpcc_cpu.buffer<40 x tokens, at 0>
    %x = hpcc_nn.embedding %ids of %table : tensor<1x80xi64> of tensor<50x40xf32> -> tensor<1x80x40xf32>
    // The kernel follows the weights: four rows share their inputs, or every input is used.
    // CHECK: %[[Q:.*]] = hpcc_cpu.linear "layer.0.attn.q" %[[X]], %{{.*}} by vectors block 768 : i64 then none : {{.*}} -> !hpcc_cpu.buffer<40 x tokens, at 48>
    // CHECK: %[[K:.*]] = hpcc_cpu.linear "layer.0.attn.k" %[[X]], %{{.*}} by dense block 768 : i64 then none : {{.*}} at 96>
    // One quantisation serves all that read it.
    // BYTES: %[[C:.*]] = hpcc_cpu.quantize %{{.*}} -> !hpcc_cpu.buffer<40 x codes, at 0>
    // BYTES-NOT: hpcc_cpu.quantize
    // BYTES: hpcc_cpu.linear "layer.0.attn.q" %[[C]], %{{.*}} by bytes
    // BYTES: hpcc_cpu.linear "layer.0.attn.k" %[[C]], %{{.*}} by bytes
    %a = hpcc_nn.linear "layer.0.attn.q" %x, %q : tensor<1x80x40xf32>, tensor<40x40xf32> -> tensor<1x80x40xf32>
    %b = hpcc_nn.linear "layer.0.attn.k" %x, %k : tensor<1x80x40xf32>, tensor<40x40xf32> -> tensor<1x80x40xf32>
    // CHECK: hpcc_cpu.attention "layer.0.attn" %[[Q]], %[[K]], %[[K]] mask %{{.*}} heads 4 : i64
    %c = hpcc_nn.attention "layer.0.attn" %a, %b, %b mask %mask heads 4 : i64 scale 0.5 : f32 : tensor<1x80x40xf32>, tensor<1x80x40xf32>, tensor<1x80x40xf32>, tensor<1x80xi64> -> tensor<1x80x40xf32>
    // The sum and the activation that follow a linear are part of it, and a place is free again after the last use.
    // CHECK: hpcc_cpu.linear "layer.0.ffn.down" %{{.*}}, %{{.*}} residual %[[X]] by singles block 96 : i64 then gelu : {{.*}} -> !hpcc_cpu.buffer<40 x tokens, at 48>
    // CHECK-NEXT: func.return
    // Rows that share no inputs pick theirs, from codes in another order.
    // PICKS: %[[C:.*]] = hpcc_cpu.quantize %{{.*}} -> !hpcc_cpu.buffer<40 x codes, at 0>
    // PICKS: hpcc_cpu.linear "layer.0.attn.k" %[[C]], %{{.*}} by bytes
    // PICKS: %[[P:.*]] = hpcc_cpu.quantize %{{.*}} -> !hpcc_cpu.buffer<40 x windows, at 0>
    // PICKS: hpcc_cpu.linear "layer.0.ffn.down" %[[P]], %{{.*}} by picks
    // Where there are tiles they multiply every weight.
    // TILES: hpcc_cpu.linear "layer.0.attn.q" %{{.*}}, %{{.*}} by tiles
    // TILES: hpcc_cpu.linear "layer.0.ffn.down" %{{.*}}, %{{.*}} by tiles
    %d = hpcc_nn.linear "layer.0.ffn.down" %c, %down : tensor<1x80x40xf32>, tensor<40x40xf32> -> tensor<1x80x40xf32>
    %e = hpcc_nn.binary add %d, %x : tensor<1x80x40xf32>, tensor<1x80x40xf32> -> tensor<1x80x40xf32>
    %f = hpcc_nn.activation gelu %e : tensor<1x80x40xf32> -> tensor<1x80x40xf32>
    func.return %f : tensor<1x80x40xf32>
  }
}
