#pragma once
/// \file
/// Kernels that start before the ones queued before them have ended, which is of compute capability 9.0 on; elsewhere a launch is
/// a plain one.

#include <vector>

#include <blackmamba/core/at_rest.hpp>
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
/// memory before, whatever it is: also weights may have been written just now, unless they are at rest (`WeightsAtRest`). Bringing
/// lines to the L2 cache is no read.
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

/// Asks for the line at an address to be brought to the L2 cache: also no read.
__device__ inline void hint_to_l2([[maybe_unused]] void const* from) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from) : "memory");
#endif
}

/// While one lives, its maker says that nothing queued on the context, or queued meanwhile, writes weights: kernels read them
/// before the kernels queued before theirs have ended. So it is in a step of generation, whose weights were there when the host
/// last waited.
class WeightsAtRest {
 public:
  explicit WeightsAtRest(Cuda const& ctx) : count_{count(ctx)} { ++count_; }
  WeightsAtRest(WeightsAtRest const&) = delete;
  WeightsAtRest& operator=(WeightsAtRest const&) = delete;
  ~WeightsAtRest() { --count_; }

  static bool said(Cuda const& ctx) { return count(ctx) > 0; }

 private:
  struct Count {
    int living = 0;
  };
  static int& count(Cuda const& ctx) {
    return ctx.resource<Count>([] { return std::make_shared<Count>(); }).living;
  }
  int& count_;
};

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

/// Launches a kernel that may start before those before it have ended. Dynamic shared memory beyond 48 KiB is the same in each of
/// its launches.
template <class... Parameters, class... Arguments>
void launch_overlapping(Cuda const& ctx, char const* name, void (*kernel)(Parameters...), dim3 blocks, unsigned threads,
                        std::size_t shared_bytes, Arguments const&... arguments) {
  auto& table = ctx.resource<OverlapTable>([] { return std::make_shared<OverlapTable>(); });
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared_bytes, config.stream = ctx.stream();
  config.attrs = &attribute, config.numAttrs = table.allows(kernel, shared_bytes) ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

}  // namespace blackmamba::detail

namespace blackmamba {

template <Context Ctx>
requires std::derived_from<Ctx, Cuda>
class AtRest<Ctx> {
 public:
  explicit AtRest(Ctx const& ctx) : said_{ctx} {}

 private:
  detail::WeightsAtRest said_;
};

}  // namespace blackmamba
