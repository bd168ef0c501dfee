#pragma once
// What tests on a GPU share: they are skipped, and say so, where there is none.

#include <cstdio>

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

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

/// What `body` queues, captured once, with the scratch memory sealed: it may not allocate.
class Graph {
 public:
  template <class Body>
  Graph(Cuda const& ctx, Body&& body) : ctx_{ctx} {
    ctx.scratch().seal();
    detail::check_cuda(cudaStreamBeginCapture(ctx.stream(), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    body();
    detail::check_cuda(cudaStreamEndCapture(ctx.stream(), &graph_), "cudaStreamEndCapture");
    detail::check_cuda(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
    ctx.scratch().unseal();
  }
  Graph(Graph const&) = delete;
  Graph& operator=(Graph const&) = delete;
  ~Graph() { cudaGraphExecDestroy(executable_), cudaGraphDestroy(graph_); }

  void replay() const { detail::check_cuda(cudaGraphLaunch(executable_, ctx_.stream()), "cudaGraphLaunch"); }

 private:
  Cuda ctx_;
  cudaGraph_t graph_;
  cudaGraphExec_t executable_;
};

}  // namespace test

/// A test that runs where there is a GPU, and is counted as skipped elsewhere.
#define GPU_TEST(name) TEST_CASE(name* doctest::skip(!test::gpu()))
#define GPU_TEST_TEMPLATE(name, T, ...) TEST_CASE_TEMPLATE(name* doctest::skip(!test::gpu()), T, __VA_ARGS__)
