#pragma once
/// \file
/// Kernels that start before the ones queued before them have ended, and blocks that work in clusters. Both are of compute
/// capability 9.0 on; elsewhere a launch is a plain one, of clusters of one block.

#include <vector>

#include <blackmamba/core/cuda/context.cuh>

namespace blackmamba::detail {

/// Lets the kernel queued next start once every block of this one got here or ended. What this kernel writes is there for that
/// one only after its `await_kernels_before`, which waits for this one's end.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// Waits until all kernels queued before this one have ended. A kernel that was launched to overlap reads and writes no global
/// memory before, whatever it is: also weights may have been written just now. Bringing lines to the L2 cache is no read.
__device__ inline void await_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for global memory to be brought to the L2 cache. Address and size are multiples of 16.
__device__ inline void prefetch_to_l2([[maybe_unused]] void const* from, [[maybe_unused]] std::uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

/// The block's place in its cluster.
__device__ inline unsigned cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
/// All threads of the cluster, and what they wrote to shared memory before.
__device__ inline void synchronize_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
/// What another block of the cluster has at an address of this block's shared memory.
__device__ inline float load_shared_of([[maybe_unused]] unsigned rank, float const* p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  float x;
  std::uint32_t address = static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
#else
  return *p;
#endif
}

/// Which kernels can overlap on a context's device: those of whose code a version for 9.0 or later is what runs there.
class OverlapTable {
 public:
  template <class Kernel>
  bool allows(Kernel* kernel, std::size_t shared_bytes) {
    auto const* const key = reinterpret_cast<void const*>(kernel);
    for (auto const& [known, answer] : known_)
      if (known == key) return answer;
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    if (shared_bytes > 48 << 10)
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
                 "cudaFuncSetAttribute");
    known_.emplace_back(key, attributes.ptxVersion >= 90);
    return known_.back().second;
  }

 private:
  std::vector<std::pair<void const*, bool>> known_;
};

/// Whether a kernel, of so much dynamic shared memory in each of its launches, can overlap and have clusters. Makes that much
/// possible.
template <class Kernel>
bool can_overlap(Cuda const& ctx, Kernel* kernel, std::size_t shared_bytes) {
  return ctx.resource<OverlapTable>([] { return std::make_shared<OverlapTable>(); }).allows(kernel, shared_bytes);
}

/// Launches a kernel that may start before those before it have ended, in clusters of `cluster` blocks (a divisor of the blocks),
/// both where `can_overlap`.
template <class... Parameters, class... Arguments>
void launch_overlapping(Cuda const& ctx, char const* name, void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                        std::size_t shared_bytes, unsigned cluster, Arguments const&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared_bytes, config.stream = ctx.stream();
  config.attrs = attributes, config.numAttrs = can_overlap(ctx, kernel, shared_bytes) ? (cluster > 1 ? 2 : 1) : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

}  // namespace blackmamba::detail
