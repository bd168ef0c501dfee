#pragma once
// What benchmarks on a GPU share: how they check and measure. Outputs are poisoned and compared with the reference, then medians of
// graph replays are taken over buffers that together exceed the L2 cache, and printed beside the ceilings of the same run.

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <blackmamba/core/cuda/tensor.cuh>
#include <blackmamba/verify/check.hpp>
#include <blackmamba/verify/placement.cuh>

namespace bench {

using namespace blackmamba;

/// A number in (-1, 1) for each index of a stream.
__host__ __device__ inline float uniform(std::uint64_t stream, std::uint64_t i) {
  std::uint64_t x = (stream << 48) + i + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>(static_cast<std::int64_t>(x ^ (x >> 31)) * 0x1p-63);
}

template <class T>
__global__ void fill_kernel(T* out, Index count, std::uint64_t stream, float centre, float spread) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += Index{gridDim.x} * blockDim.x)
    out[i] = static_cast<T>(fmaf(spread, uniform(stream, static_cast<std::uint64_t>(i)), centre));
}

/// A tensor of numbers in centre ± spread.
template <class T, int Rank>
DeviceTensor<T, Rank> random_on_device(Cuda const& ctx, Shape<Rank> shape, std::uint64_t stream, float centre = 0,
                                       float spread = 1) {
  DeviceTensor<T, Rank> out{ctx, shape};
  fill_kernel<<<1024, 256, 0, ctx.stream()>>>(out.data(), out.size(), stream, centre, spread);
  detail::check_launch("fill_kernel");
  return out;
}

/// Sets of buffers, of so many bytes each, that together are three times the L2 cache of an H100, or `most` of them: call i of a
/// graph takes set i % sets.
inline int sets_of(double bytes, int most = 400) { return std::min(most, 1 + static_cast<int>(150e6 / bytes)); }

/// All bits of the elements, which is NaN in every scalar and -1 in every integer: what a kernel leaves unwritten shows.
template <class Contiguous>
void poison(Cuda const& ctx, Contiguous const& t) {
  auto const bytes = static_cast<std::size_t>(t.size()) * sizeof(*t.data());
  detail::check_cuda(cudaMemsetAsync(t.data(), 0xff, bytes, ctx.stream()), "memset");
}
template <class... Tensors>
void poison_all(Cuda const& ctx, Tensors const&... tensors) {
  (poison(ctx, tensors), ...);
}

/// Tensors too large to bring to the host: a sum over bits and places, the same in any order, and how many are not finite.
struct Summary {
  unsigned long long bits, not_finite;
  friend bool operator==(Summary const&, Summary const&) = default;
};

template <class T>
__global__ void summary_kernel(T const* x, Index count, unsigned long long* out) {
  unsigned long long bits = 0, not_finite = 0;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += Index{gridDim.x} * blockDim.x) {
    auto const value = static_cast<float>(widen(x[i]));
    auto const word = (static_cast<unsigned long long>(i) << 32 ^ __float_as_uint(value)) * 0xbf58476d1ce4e5b9ull;
    bits += word ^ (word >> 29);
    not_finite += !isfinite(value);
  }
  atomicAdd(out, bits), atomicAdd(out + 1, not_finite);
}

/// Of a contiguous tensor of at most 32 bits an element. Waits.
template <class T, int Rank>
Summary summary(Cuda const& ctx, View<T, Rank> x) {
  static_assert(sizeof(T) <= 4);
  auto const out = to_device(ctx, Tensor<unsigned long long, 1>{Shape<1>{2}});
  summary_kernel<<<1024, 256, 0, ctx.stream()>>>(x.data(), x.size(), out.data());
  detail::check_launch("summary_kernel");
  auto const sums = to_host(ctx, out);
  return {sums(0), sums(1)};
}

/// Of all that the program has checked.
inline bool all_right = true;

inline void expect(bool right, std::string const& what) {
  all_right = all_right && right;
  if (!right) std::printf("WRONG %s\n", what.c_str());
}

/// `got`, rounded to `T` once, whatever it is held in now, against the exact values.
template <class T, class Got, class Exact>
verify::Comparison expect_close(char const* name, Got const& got, Exact const& exact, verify::Cost const& cost) {
  auto comparison = verify::compare_with(got.view(), exact.view(),
                                         [&](double value, double scale) { return verify::allowed_error<T>(cost, value, scale); });
  comparison.scale = std::max(comparison.scale, cost.scale);
  expect(static_cast<bool>(comparison), concat(name, ": ", comparison.describe()));
  return comparison;
}

/// Verify's problem of an operation at the sizes that are timed: every output begins as NaN, the reference computes in double.
template <template <Scalar> class P, Scalar T>
void expect_problem(Cuda const& ctx, std::vector<typename P<T>::Size> const& sizes) {
  auto const report = verify::check<P, T>(ctx, {}, sizes);
  for (auto const& failure : report.failures()) expect(false, failure);
}

/// Milliseconds of one call: the median over replays of a graph of `calls` calls, call i being `launch(i)`.
template <class Launch>
double milliseconds(Cuda const& ctx, int calls, Launch&& launch, int replays = 21) {
  launch(0);  // loads the kernels, sizes the scratch memory
  ctx.synchronize();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  detail::check_cuda(cudaStreamBeginCapture(ctx.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < calls; ++i) launch(i);
  detail::check_cuda(cudaStreamEndCapture(ctx.stream(), &graph), "cudaStreamEndCapture");
  detail::check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin, end;
  detail::check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
  detail::check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int i = -3; i < replays; ++i) {
    cudaEventRecord(begin, ctx.stream());
    detail::check_cuda(cudaGraphLaunch(executable, ctx.stream()), "cudaGraphLaunch");
    cudaEventRecord(end, ctx.stream());
    ctx.synchronize();
    float one = 0;
    detail::check_cuda(cudaEventElapsedTime(&one, begin, end), "cudaEventElapsedTime");
    if (i >= 0) times.push_back(one);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(executable), cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + replays / 2, times.end());
  return times[static_cast<std::size_t>(replays / 2)] / calls;
}

static __global__ void copy_kernel(float4 const* from, float4* to, Index count) {
  Index const step = Index{gridDim.x} * blockDim.x;
  Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    float4 x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < 4; ++k) __stcs(to + i + k * step, x[k]);
  }
  for (; i < count; i += step) to[i] = from[i];
}

struct Ceilings {
  double bytes_per_second;  ///< read and written, by a copy
  double exps_per_second;   ///< of the special-function units
  double fmas_per_second;   ///< in float32
};

template <bool Exps>
__global__ void rate_kernel(float* out, int rounds) {
  float x[8];
  for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(threadIdx.x + i) * 1e-3f;
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int k = 0; k < 8; ++k)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (Exps)
          asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[i]));
        else
          asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(x[i]));
      }
  }
  float sum = 0;
  for (float v : x) sum += v;
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

inline Ceilings measure_ceilings(Cuda const& ctx) {
  Ceilings out{};
  Index const bytes = Index{1} << 30;
  DeviceTensor<char, 1> const from{ctx, Shape{bytes}}, to{ctx, Shape{bytes}};
  auto const copy = [&](int blocks) {
    return milliseconds(ctx, 4, [&](int) {
      copy_kernel<<<blocks, 256, 0, ctx.stream()>>>(reinterpret_cast<float4 const*>(from.data()),
                                                    reinterpret_cast<float4*>(to.data()), bytes / 16);
      detail::check_launch("copy_kernel");
    });
  };
  double const fastest = std::min({copy(8 * ctx.multiprocessors()), copy(64 * ctx.multiprocessors()), copy(1 << 16)});
  out.bytes_per_second = 2e3 * static_cast<double>(bytes) / fastest;
  int const blocks = 8 * ctx.multiprocessors(), rounds = 256;
  double const operations = 64.0 * rounds * blocks * 256;
  out.exps_per_second = 1e3 * operations / milliseconds(ctx, 4, [&](int) {
                          rate_kernel<true><<<blocks, 256, 0, ctx.stream()>>>(reinterpret_cast<float*>(to.data()), rounds);
                          detail::check_launch("rate_kernel");
                        });
  out.fmas_per_second = 1e3 * operations / milliseconds(ctx, 4, [&](int) {
                          rate_kernel<false><<<blocks, 256, 0, ctx.stream()>>>(reinterpret_cast<float*>(to.data()), rounds);
                          detail::check_launch("rate_kernel");
                        });
  return out;
}

/// A benchmark as a program: a line about the card and its ceilings, `body(ctx, ceilings)`, and `right` if all that was checked is.
template <class Body>
int program(char const* right, Body&& body) try {
  if (cuda_device_count() == 0) {
    std::printf("skipped: no NVIDIA GPU here\n");
    return 0;
  }
  Cuda const ctx;
  cudaDeviceProp card;
  detail::check_cuda(cudaGetDeviceProperties(&card, ctx.device()), "cudaGetDeviceProperties");
  auto const ceilings = measure_ceilings(ctx);
  std::printf("%s, %d multiprocessors: copy %.3f TB/s, %.3f T exp2/s, %.2f T fma/s\n\n", card.name, ctx.multiprocessors(),
              ceilings.bytes_per_second * 1e-12, ceilings.exps_per_second * 1e-12, ceilings.fmas_per_second * 1e-12);
  body(ctx, ceilings);
  ctx.synchronize();
  std::printf("\n%s\n", all_right ? right : "WRONG OUTPUTS");
  return all_right ? 0 : 1;
} catch (std::exception const& thrown) {
  std::fprintf(stderr, "%s\n", thrown.what());
  return 1;
}

}  // namespace bench
