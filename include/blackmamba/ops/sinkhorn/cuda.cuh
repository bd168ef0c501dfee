#pragma once
/// \file
/// Both forms of Sinkhorn's iteration on a GPU: one launch, whatever the number of iterations, which the device decides.

#include <array>
#include <atomic>

#include <blackmamba/ops/sinkhorn/plain.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind sinkhorn_not_finite{"sinkhorn", "the logits of token ", "", " are not all finite"};
inline constexpr FaultKind sinkhorn_range{"sinkhorn", "exp(s x) of expert ", "",
                                          " has no sum: the logits are beyond the range of this form, use sinkhorn_log"};
inline constexpr FaultKind sinkhorn_lost{"sinkhorn", "the plan is not finite after ", "",
                                         " iterations: the logits are beyond the range of this form, use sinkhorn_log"};
inline constexpr FaultKind sinkhorn_log_not_finite{"sinkhorn_log", "the logits of token ", "", " are not all finite"};
inline constexpr FaultKind sinkhorn_log_range{"sinkhorn_log", "the logits of token ", "",
                                              ", with their sharpness, are too large for the accumulator"};
inline constexpr FaultKind sinkhorn_log_potential{"sinkhorn_log", "the potential of expert ", "", " is not finite"};

struct SinkhornTuning {
  static constexpr int threads = 256;  ///< of a block of a cooperative grid; of a cluster's at least, if there are as many
};

/// Launches a kernel as a cluster, or as a cooperative grid, a single block too.
template <class... Parameter, class... Argument>
void launch_together(Cuda const& ctx, void (*kernel)(Parameter...), unsigned blocks, unsigned threads, int shared, bool clustered,
                     Argument const&... argument) {
  cudaLaunchAttribute attribute{};
  if (clustered) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = blocks, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  } else {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{blocks}, config.blockDim = dim3{threads};
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = ctx.stream();
  config.attrs = &attribute, config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, argument...), "cudaLaunchKernelEx of sinkhorn");
}

/// Whether a cluster of 16 of the kernel's largest blocks runs here: compute capability 9.0, compiled for it, and that many
/// multiprocessors side by side. Asks the driver once a device and kernel.
template <class A, auto Kernel, int Threads>
bool clusters_fit(int device) {
  static std::array<std::atomic<signed char>, 64> known{};  // 0: not asked yet
  auto const ask = [&] {
    auto const fine = [](cudaError_t code) {
      if (code != cudaSuccess) cudaGetLastError();
      return code == cudaSuccess;
    };
    int major = 0, count = 0;
    cudaFuncAttributes attributes{};
    if (!fine(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) || major < 9) return false;
    if (!fine(cudaFuncGetAttributes(&attributes, Kernel)) || attributes.ptxVersion < 90) return false;
    if (!fine(cudaFuncSetAttribute(Kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1))) return false;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = sinkhorn_most_blocks, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3{sinkhorn_most_blocks}, config.blockDim = dim3{Threads};
    config.dynamicSmemBytes = static_cast<std::size_t>(sinkhorn_shared_bytes(sinkhorn_clustered_group, Threads, true, sizeof(A)));
    config.attrs = &attribute, config.numAttrs = 1;
    return fine(cudaOccupancyMaxActiveClusters(&count, Kernel, &config)) && count >= 1;
  };
  if (device >= static_cast<int>(known.size())) return ask();
  auto& answer = known[static_cast<std::size_t>(device)];
  if (answer.load(std::memory_order_relaxed) == 0) answer.store(ask() ? 1 : -1, std::memory_order_relaxed);
  return answer.load(std::memory_order_relaxed) > 0;
}

/// Blocks of a cooperative grid that run at once.
template <class Kernel>
Index blocks_at_once(Cuda const& ctx, Kernel kernel, int threads, int shared) {
  int of_one = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_one, kernel, threads, static_cast<std::size_t>(shared)),
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return Index{of_one} * ctx.multiprocessors();
}

/// Launches a kernel that keeps `Kept` tokens a thread as one cluster; false where that cannot be. \param wanted  lanes of all
/// tokens
template <class A, auto Kernel, int Kept>
bool launch_cluster(Cuda const& ctx, SinkhornJob<A>& job, Index wanted) {
  constexpr int least = SinkhornTuning::threads, most = sinkhorn_most_threads<A, Kept>;
  if (job.group > sinkhorn_clustered_group || wanted > Index{most} * Kept * sinkhorn_most_blocks ||
      !clusters_fit<A, Kernel, most>(ctx.device()))
    return false;
  Index blocks = 1;
  while (blocks < sinkhorn_most_blocks && blocks * least < wanted) blocks *= 2;
  Index const threads = std::max(Index{least}, ceil_div(ceil_div(wanted, blocks * Kept), Index{32}) * 32);
  job.clustered = blocks > 1;
  int const shared = sinkhorn_shared_bytes(job.group, static_cast<int>(threads), true, sizeof(A));
  launch_together(ctx, Kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, job.clustered, job);
  return true;
}

/// \tparam Many  the kernel for many tokens on a cluster, which keeps `Kept` a thread
template <class A, auto Many, int Kept, auto Single, auto Looping, auto Plain>
void launch_sinkhorn(Cuda const& ctx, SinkhornJob<A>& job) {
  constexpr int least = SinkhornTuning::threads, most = sinkhorn_most_threads<A, 1>;
  auto const scope = ctx.scratch().scope();
  if (job.E > Index{32} * sinkhorn_columns) {
    constexpr int threads = SinkhornPlain<A>::threads;
    Index const blocks =
        std::min(blocks_at_once(ctx, Plain, threads, 0), ceil_div(std::max(job.tokens, job.E) * 32, Index{threads}));
    auto const take = [&](Index count) { return ctx.scratch().template take<A>(Shape<1>{count}).data(); };
    SinkhornPlain<A> const memory{take(job.tokens),
                                  take(job.tokens),
                                  take(job.E),
                                  take(job.E),
                                  take(blocks * (threads / 32)),
                                  ctx.scratch().template take<int>(Shape<1>{1}).data()};
    return launch_together(ctx, Plain, static_cast<unsigned>(blocks), threads, 0, false, job, memory);
  }
  while (Index{job.group} * sinkhorn_columns < job.E) job.group *= 2;
  Index const wanted = job.tokens * job.group;
  bool const few = wanted <= Index{least} * sinkhorn_most_blocks;
  if (few ? launch_cluster<A, Single, 1>(ctx, job, wanted) : launch_cluster<A, Many, Kept>(ctx, job, wanted)) return;
  // Few blocks, for each reads what all of them leave; but as many multiprocessors as there are tokens for.
  int const threads = wanted <= Index{least} * ctx.multiprocessors() ? least : most;
  int const shared = sinkhorn_shared_bytes(job.group, threads, false, sizeof(A));
  auto const launch = [&](auto kernel, Index blocks) {
    job.partial = ctx.scratch().template take<A>(Shape<3>{2, Index{job.group} * sinkhorn_columns + 1, blocks}).data();
    launch_together(ctx, kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared, false, job);
  };
  Index const blocks = ceil_div(wanted, Index{threads});
  if (blocks <= blocks_at_once(ctx, Single, threads, shared)) return launch(Single, blocks);
  launch(Looping, std::min(blocks, blocks_at_once(ctx, Looping, threads, shared)));
}

template <Scalar T, class Args>
SinkhornJob<accumulator_t<T>> sinkhorn_job(Args const& a) {
  using A = accumulator_t<T>;
  SinkhornJob<A> job;
  if constexpr (std::is_same_v<T, float>) job.floats = a.logits;
  if constexpr (std::is_same_v<T, half>) job.halves = a.logits;
  if constexpr (std::is_same_v<T, bf16>) job.bfloats = a.logits;
  if constexpr (std::is_same_v<T, double>) job.doubles = a.logits;
  job.plan = a.plan, job.report = a.report;
  job.tokens = a.logits.extent(0), job.E = a.logits.extent(1);
  job.tolerance = a.tolerance, job.max_iterations = a.max_iterations, job.sharpness = static_cast<A>(a.sharpness);
  job.whole = fours_align(a.logits), job.plan_whole = fours_align(a.plan);
  return job;
}

template <class A>
void report_nothing(Cuda const& ctx, SinkhornJob<A> const& job) {
  if (!job.report) return;
  sinkhorn_empty_kernel<A><<<1, 1, 0, ctx.stream()>>>(job);
  check_launch("sinkhorn_empty_kernel");
}

}  // namespace detail

/// Returns nothing. With g = 1, 2, 4, … lanes of 8 experts a token, tokens stay in registers: on one cluster of blocks where g ≤ 8
/// and tokens · g ≤ 16384 (8192 in double), on a cooperative grid where g ≤ 32 and each thread has one at most; elsewhere logits
/// are read again in each iteration. Where something is wrong the plan is NaN and the next wait throws. Two runs give the same
/// bits.
template <Scalar T>
void sinkhorn_on(Cuda const& ctx, SinkhornArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::DeviceScope const device{ctx.device()};
  auto job = detail::sinkhorn_job<T>(a);
  if (job.tokens == 0) return detail::report_nothing(ctx, job);
  job.ones = a.start == SinkhornStart::ones;
  job.not_finite = ctx.fault(detail::sinkhorn_not_finite);
  job.range = ctx.fault(detail::sinkhorn_range);
  job.lost = ctx.fault(detail::sinkhorn_lost);
  detail::launch_sinkhorn<A, detail::sinkhorn_kernel<A, detail::sinkhorn_kept<A>>, detail::sinkhorn_kept<A>,
                          detail::sinkhorn_kernel<A, 1>, detail::sinkhorn_kernel<A, 0>, detail::sinkhorn_plain_kernel<A>>(ctx, job);
}

/// As `sinkhorn` on a GPU.
template <Scalar T>
void sinkhorn_log_on(Cuda const& ctx, SinkhornLogArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::DeviceScope const device{ctx.device()};
  auto job = detail::sinkhorn_job<T>(a);
  if (job.tokens == 0) return detail::report_nothing(ctx, job);
  job.potentials = a.potentials;
  job.not_finite = ctx.fault(detail::sinkhorn_log_not_finite);
  job.range = ctx.fault(detail::sinkhorn_log_range);
  job.lost = ctx.fault(detail::sinkhorn_log_potential);
  detail::launch_sinkhorn<A, detail::sinkhorn_log_kernel<A, 1>, 1, detail::sinkhorn_log_kernel<A, 1>,
                          detail::sinkhorn_log_kernel<A, 0>, detail::sinkhorn_log_plain_kernel<A>>(ctx, job);
}

}  // namespace blackmamba
