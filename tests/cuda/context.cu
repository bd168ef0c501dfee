#include "cuda/support.cuh"

#include <string>

using namespace blackmamba;

TEST_CASE("Cuda: without a device, or with an ordinal that does not exist, it is one sentence, and the CPU goes on") {
  std::string sentence;
  try {
    Cuda const ctx{1000};
  } catch (cuda_error const& thrown) {
    sentence = thrown.what();
  }
  if (test::gpu())
    CHECK(sentence.starts_with("Cuda: there is no device 1000, this process sees "));
  else
    CHECK(sentence.starts_with("Cuda: no NVIDIA GPU can be used here: "));
  Arena arena;
  auto const scope = arena.scope();
  CHECK(arena.take<int>(Shape<1>{4}).size() == 4);
}

GPU_TEST("Cuda: out of device memory is a memory_error with its size, and leaves the process usable") {
  Cuda const ctx;
  {
    auto const scope = ctx.scratch().scope();
    CHECK_THROWS_WITH_AS(ctx.scratch().take<char>(Shape{Index{1} << 46}),
                         "cudaMalloc of 70368744177664 bytes: cudaErrorMemoryAllocation (out of memory)", memory_error);
    auto const zeros = ctx.scratch().take_zeros<int>(Shape{Index{1000}});
    for (int x : to_host(ctx, zeros)) CHECK(x == 0);
  }
  CHECK_NOTHROW(ctx.synchronize());
}

GPU_TEST("Cuda: tensors go to the device and back as they were, strided ones too, empty ones too") {
  Cuda const ctx;
  auto const from = test::random_tensor<float>(Shape<2>{5, 7}, 1);
  CHECK(test::same_bits(to_host(ctx, to_device(ctx, from)), from));
  auto const turned = to_host(ctx, to_device(ctx, from.view().transposed(0, 1)));
  for (Index i = 0; i < 5; ++i)
    for (Index k = 0; k < 7; ++k) CHECK(turned(k, i) == from(i, k));
  CHECK(to_host(ctx, to_device(ctx, Tensor<float, 2>{Shape<2>{0, 7}})).size() == 0);
  CHECK_THROWS_AS(to_host(ctx, to_device(ctx, from).view().transposed(0, 1)), value_error);
}

GPU_TEST("Cuda: copies share the stream and the scratch memory; a stream of the caller's is used") {
  Cuda const ctx, copy = ctx;
  CHECK(ctx.stream() == copy.stream());
  CHECK(&ctx.scratch() == &copy.scratch());
  cudaStream_t stream;
  detail::check_cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  {
    Cuda const on_it{0, stream};
    CHECK(on_it.stream() == stream);
    CHECK_NOTHROW(on_it.synchronize());
  }
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

namespace {

constexpr detail::FaultKind odd_number{"halve", "the number at position ", " is ", ", which is odd"};
constexpr detail::FaultKind other{"other", "nothing at position ", "", " is wrong"};

__global__ void halve_kernel(int const* x, Index n, detail::FaultSlot* slot) {
  for (Index i = threadIdx.x; i < n; i += blockDim.x)
    if (x[i] % 2 != 0) detail::report_fault(slot, i, x[i]);
}

}  // namespace

GPU_TEST("Cuda: what a kernel finds wrong in its data is thrown by the next wait, the first place first, and only once") {
  Cuda const ctx;
  Tensor<int, 1> numbers{Shape<1>{1000}};
  numbers(77) = -5, numbers(990) = 3;
  auto const x = to_device(ctx, numbers);
  auto const run = [&] {
    ctx.fault(other);
    halve_kernel<<<1, 128, 0, ctx.stream()>>>(x.data(), x.size(), ctx.fault(odd_number));
  };
  for (int i = 0; i < 2; ++i) {
    run();
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "halve: the number at position 77 is -5, which is odd", value_error);
    CHECK_NOTHROW(ctx.synchronize());
  }
}
