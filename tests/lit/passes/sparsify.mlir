// RUN: python %S/../make_weights.py %t.safetensors q=64x64:f32 up=64x128:f32 pool=128x128:f32
// RUN: sed 's|WEIGHTS|%t.safetensors|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="nm:2:4"}' | filecheck %s
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="hp:0.75"}' | filecheck %s --check-prefix=HP
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="nm:1:16"}' | filecheck %s --check-prefix=WIDE
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="dense"}' | filecheck %s --check-prefix=DENSE
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="auto"}' | filecheck %s --check-prefix=DENSE
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="block:4x1:0.75"}' | filecheck %s --check-prefix=BLOCK
// RUN: hpcc-opt %t.mlir -p 'hpcc-sparsify{spec="unstructured:0.75"}' | filecheck %s --check-prefix=ANYWHERE

builtin.module attributes {"hpcc.weights" = "WEIGHTS"} {
  func.func @main(%x: tensor<1x4x64xf32>) -> tensor<1x4x128xf32> {
    // A linear inside a block is pruned: a new key, and the pattern in the type.
    // CHECK: hpcc_nn.weight "q.nm:2:4" digest "{{[0-9a-f]+}}" : tensor<64x64xf32, #hpcc_sparsity.nm<2:4>>
    // HP: #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>
    // BLOCK: hpcc_nn.weight "q.block:4x1:0.75" digest "{{[0-9a-f]+}}" : tensor<64x64xf32, #hpcc_sparsity.block<4x1, keep = 1/4>>
    // ANYWHERE: hpcc_nn.weight "q.unstructured:0.75" {{.*}} : tensor<64x64xf32, #hpcc_sparsity.unstructured<density = 0.25>>
    // WIDE: hpcc_nn.weight "q.nm:1:16"
    // DENSE-NOT: hpcc_sparsity
    %q = hpcc_nn.weight "q" digest "1" : tensor<64x64xf32>
    %0 = hpcc_nn.linear "layer.0.attn.q" %x, %q : tensor<1x4x64xf32>, tensor<64x64xf32> -> tensor<1x4x64xf32>
    // The file may hold the transpose: the type is the logical matrix all the same.
    // CHECK: hpcc_nn.weight "up.nm:2:4" digest "{{[0-9a-f]+}}" stored "io" : tensor<128x64xf32, #hpcc_sparsity.nm<2:4>>
    %up = hpcc_nn.weight "up" digest "2" stored "io" : tensor<128x64xf32>
    %1 = hpcc_nn.linear "layer.0.ffn.up" %0, %up : tensor<1x4x64xf32>, tensor<128x64xf32> -> tensor<1x4x128xf32>
    // A pooler is not pruned, nor is a linear that shares its weight.
    // CHECK: hpcc_nn.weight "pool" digest "3" : tensor<128x128xf32>
    // CHECK: hpcc_nn.linear "pooler"
    // CHECK: hpcc_nn.linear "layer.0.ffn.down"
    // CHECK-SAME: hpcc.left_dense = "its weight is used outside of the blocks' linears too"
    %pool = hpcc_nn.weight "pool" digest "3" : tensor<128x128xf32>
    %2 = hpcc_nn.linear "pooler" %1, %pool : tensor<1x4x128xf32>, tensor<128x128xf32> -> tensor<1x4x128xf32>
    %3 = hpcc_nn.linear "layer.0.ffn.down" %2, %pool : tensor<1x4x128xf32>, tensor<128x128xf32> -> tensor<1x4x128xf32>
    func.return %3 : tensor<1x4x128xf32>
  }
}
