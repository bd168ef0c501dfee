#pragma once
/// \file
/// Tiles brought to shared memory by the copy engine of compute capability 9.0 and later, the barriers that count their bytes, and
/// tiles that the engine adds to tensors.
///
/// A tile lies in rows of 128 bytes whose 16-byte pieces are exchanged, piece c of row r at c ^ (r mod 8), as tensor cores want
/// them. What lies outside of the tensor arrives as zero.

#include <array>
#include <cstdint>

#include <cuda.h>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// Whether the copy engine can read a view, or add to it: aligned to 16 bytes in every dimension, contiguous in the last.
template <class T, int Rank>
bool tiles_align(View<T, Rank> const& view) {
  constexpr Index per_piece = 16 / static_cast<Index>(sizeof(T));
  constexpr Index most = Index{1} << 31, furthest = Index{1} << 38;
  bool aligns = view.stride(Rank - 1) == 1 && view.extent(Rank - 1) % per_piece == 0 &&
                reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0;
  for (int i = 0; i < Rank; ++i) aligns = aligns && view.extent(i) > 0 && view.extent(i) < most;
  for (int i = 0; i < Rank - 1; ++i)
    aligns =
        aligns && (view.extent(i) == 1 || (view.stride(i) % per_piece == 0 && view.stride(i) > 0 && view.stride(i) < furthest));
  return aligns;
}

using EncodeTiles = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time so that nothing but the runtime is linked; null where the driver has none.
inline EncodeTiles encode_tiles() {
  static EncodeTiles const function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t const answer =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    cudaError_t const answer = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (answer != cudaSuccess) cudaGetLastError();
    return answer == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiles>(found) : nullptr;
  }();
  return function;
}

/// Describes a view of 2-byte elements, or of float, for which `tiles_align` to the copy engine. A tile is `rows` of the last
/// dimension but one by 128 bytes of the last. False where the driver refuses.
template <class T, int Rank>
bool describe_tiles(CUtensorMap& map, View<T const, Rank> const& view, int rows) {
  static_assert(sizeof(T) == 2 || std::is_same_v<T, float>);
  static_assert(Rank >= 2);
  EncodeTiles const encode = encode_tiles();
  if (!encode) return false;
  cuuint64_t extents[Rank], strides[Rank - 1];
  cuuint32_t box[Rank], steps[Rank];
  Index gap = view.extent(Rank - 1);
  for (int i = 0; i < Rank; ++i) {
    int const from = Rank - 1 - i;
    extents[i] = static_cast<cuuint64_t>(view.extent(from));
    box[i] = i == 0 ? 128u / sizeof(T) : i == 1 ? static_cast<cuuint32_t>(rows) : 1u;
    steps[i] = 1;
    if (i == 0) continue;
    // The stride of an extent of 1 may be anything, and the driver looks at it.
    if (view.extent(from) != 1) gap = view.stride(from);
    strides[i - 1] = static_cast<cuuint64_t>(gap) * sizeof(T);
  }
  auto const type = std::is_same_v<T, float>  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                    : std::is_same_v<T, half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                              : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(&map, type, Rank, const_cast<T*>(view.data()), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Barriers in shared memory, by address. One phase ends when all arrivals and all bytes that were announced are there.

__device__ inline void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// After the last barrier_init and before the block's barrier: the copy engine sees them.
__device__ inline void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and announces bytes that the copy engine will bring.
__device__ inline void barrier_expect(std::uint32_t barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits until the phase of this parity has ended.
__device__ inline void barrier_wait(std::uint32_t barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra done;\n"
      "bra again;\n"
      "done:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// Starts bringing the tile whose first element is at (row, column) of a matrix, or of matrix `of` of a stack.
__device__ inline void bring_tile(CUtensorMap const& map, std::uint32_t barrier, std::uint32_t to, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
               "l"(&map), "r"(barrier), "r"(column), "r"(row)
               : "memory");
}
__device__ inline void bring_tile(CUtensorMap const& map, std::uint32_t barrier, std::uint32_t to, int column, int row, int of) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(of)
      : "memory");
}
/// Starts adding a tile of floats in shared memory to the tile whose first element is at (row, column) of matrix `of` of a stack.
/// What lies outside of the tensor is left out. Part of this thread's next `commit_tiles`.
__device__ inline void add_tile(CUtensorMap const& map, std::uint32_t from, int column, int row, int of) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(from), "r"(column), "r"(row), "r"(of)
               : "memory");
}
__device__ inline void commit_tiles() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until the engine has read all but the last `Pending` groups that this thread committed.
template <int Pending>
__device__ void wait_tiles_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
/// Waits until all that this thread committed has been added.
__device__ inline void wait_tiles_added() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// Asks for a description that is about to be needed.
__device__ inline void fetch_description(CUtensorMap const& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace blackmamba::detail
