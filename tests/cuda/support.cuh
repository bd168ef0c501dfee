#pragma once
// What tests on a GPU share: they are skipped, and say so, where there is none.

#include <cstdio>
#include <tuple>

#include <blackmamba/core/cuda/graph.cuh>
#include <blackmamba/core/cuda/tensor.cuh>

#include "support/op_test.hpp"

namespace test {

inline bool gpu() {
  static bool const there = [] {
    bool const found = cuda_device_count() > 0;
    if (!found) std::printf("no NVIDIA GPU here: the tests that need one are skipped\n");
    return found;
  }();
  return there;
}

/// Whether there is one with so many GB free.
inline bool gpu_with(std::size_t gigabytes) {
  std::size_t free = 0, total = 0;
  bool const there = gpu() && cudaMemGetInfo(&free, &total) == cudaSuccess && free >= gigabytes << 30;
  if (gpu() && !there) std::printf("%zu GB of the GPU are free: a test that needs %zu is skipped\n", free >> 30, gigabytes);
  return there;
}

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

/// What `body` queues, recorded once, with the scratch memory sealed: it may not allocate.
class Graph {
 public:
  template <class Body>
  Graph(Cuda const& ctx, Body&& body) : graph_{ctx, body} {}
  void replay() const { graph_.launch(); }

 private:
  CudaGraph graph_;
};

/// Every bit of it, so that what is not written shows.
template <class Contiguous>
void poison(Cuda const& ctx, Contiguous const& t) {
  auto const bytes = static_cast<std::size_t>(t.size()) * sizeof(*t.data());
  detail::check_cuda(cudaMemsetAsync(t.data(), 0xff, bytes, ctx.stream()), "cudaMemsetAsync");
}

/// `run` leaves the same bits in its outputs, tensors on the device, whenever it is queued: twice, and twice from a graph that
/// allocates nothing. `reset` comes before each time.
template <class Reset, class Run, class... Outputs>
void expect_repeatable(Cuda const& ctx, Reset const& reset, Run const& run, Outputs const&... outputs) {
  auto const results = [&](auto const& queue) {
    reset(), queue();
    return std::tuple{to_host(ctx, outputs.view())...};
  };
  auto const expected = results(run);
  auto const same = [](auto const& one, auto const& other) { CHECK(same_bits(one, other)); };
  auto const expect_same = [&](auto const& got) {
    std::apply([&](auto const&... one) { std::apply([&](auto const&... other) { (same(one, other), ...); }, got); }, expected);
  };
  expect_same(results(run));
  Graph const graph{ctx, run};
  for (int i = 0; i < 2; ++i) expect_same(results([&] { graph.replay(); }));
}

}  // namespace test

/// A test that runs where there is a GPU, and is counted as skipped elsewhere.
#define GPU_TEST(name) TEST_CASE(name* doctest::skip(!test::gpu()))
#define GPU_TEST_WITH(gigabytes, name) TEST_CASE(name* doctest::skip(!test::gpu_with(gigabytes)))
#define GPU_TEST_TEMPLATE(name, T, ...) TEST_CASE_TEMPLATE(name* doctest::skip(!test::gpu()), T, __VA_ARGS__)
