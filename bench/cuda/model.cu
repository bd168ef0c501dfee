// Whole models of the published sizes with random weights on a GPU: decoding, the prefill of a prompt, a training step.
//
// A decoding step is a graph of the model's step, the draw of a token and what goes between; its share is that of the copy
// bandwidth of this run, counting the weights that a token meets. Prefill and training count the operations of the layers' products
// and scans (backward twice those of forward) over those of an 8192 x 8192 x 8192 product in this run. Training: batches of 2048
// tokens, bf16 with float32 masters, AdamW with clipping, what a pass keeps: activations. Peers on an H100: BlackMamba's published
// code; training with torch 2.11's grouped product.

#include <cstdio>
#include <cstring>

#include <blackmamba/cuda.cuh>
#include <blackmamba/io/load.hpp>
#include <blackmamba/io/presets.hpp>
#include <blackmamba/model/gradients.hpp>
#include <blackmamba/ops/sample/advance.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/train/optimiser.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

using T = bf16;
using Net = PublishedMixture<>;

struct Peer {
  double decode, decode64, prefill, training;  ///< ms, ms, ms, tokens a second
};

double product_flops_per_second(Cuda const& ctx) {
  Index const n = 8192;
  auto const a = bench::random_on_device<T>(ctx, Shape<2>{n, n}, 1), b = bench::random_on_device<T>(ctx, Shape<2>{n, n}, 2);
  DeviceTensor<T, 2> const c{ctx, Shape<2>{n, n}};
  double const ms = bench::milliseconds(
      ctx, 2, [&](int) { linear(ctx, LinearArgs<T>{.x = a.view(), .weight = b.view(), .y = c.view()}); }, 7);
  return 2e3 * static_cast<double>(n * n * n) / ms;
}

double gigabytes_in_use() {
  std::size_t free = 0, total = 0;
  detail::check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<double>(total - free) * 1e-9;
}

void run(Cuda const& ctx, char const* name, bench::Ceilings const& ceilings, double flops_per_second, Index training_batch,
         Peer const& peer) {
  auto const config = io::preset(name);
  auto const dims = io::mixed_dims(config);
  Model<Net, T, Cuda> model{dims, ctx};
  model.initialise(1);
  auto const count = count_parameters<Net>(dims);
  double const active = static_cast<double>(count.active) * sizeof(T);
  std::printf("\n%s: %lld parameters, %lld active\n", name, count.total, count.active);

  for (Index const batch : {1, 64}) {
    auto state = model.make_state(batch);
    TensorOn<Cuda, T, 2> const logits{ctx, Shape<2>{batch, dims.vocab}};
    TensorOn<Cuda, Token, 1> const tokens{ctx, Shape<1>{batch}};
    TensorOn<Cuda, Token, 2> const history{ctx, Shape<2>{batch, 4096}};
    TensorOn<Cuda, Index, 1> const draws{ctx, Shape<1>{batch}}, column{ctx, Shape<1>{1}};
    SampleOptions const options{.temperature = 1};
    double const ms = bench::milliseconds(
        ctx, 8,
        [&](int) {
          model.step(tokens, logits, state);
          sample(ctx, SampleArgs<T>{.logits = logits, .options = options, .random = Random{1}, .draws = draws, .tokens = tokens});
          advance_sampling(ctx, AdvanceSamplingArgs{.tokens = tokens, .history = history, .column = column, .draws = draws});
        },
        15);
    double const theirs = batch == 1 ? peer.decode : peer.decode64;
    std::printf("  decode, batch %-3lld            %9.4f ms  %9.0f tokens/s", batch, ms, 1e3 * static_cast<double>(batch) / ms);
    if (batch == 1) std::printf("  %.1f%% of copy (weights)", 1e5 * active / ms / ceilings.bytes_per_second);
    std::printf("  peer %.1f ms: %.0fx\n", theirs, theirs / ms);
  }

  double const forward_flops = static_cast<double>(flops_per_token<Net>(dims));
  {
    Index const length = 2048;
    TensorOn<Cuda, Token, 2> const tokens{ctx, Shape<2>{1, length}};
    TensorOn<Cuda, T, 2> const logits{ctx, Shape<2>{1, dims.vocab}};
    auto state = model.make_state(1);
    double const ms = bench::milliseconds(
        ctx, 1, [&](int) { model.forward_last(tokens, logits, {.state = &state}); }, 7);
    double const flops = forward_flops * static_cast<double>(length);
    std::printf("  prefill of 2048 tokens       %9.3f ms  %9.0f tokens/s  %.1f%% of the product  peer %.1f ms: %.1fx  (%.1f GB)\n",
                ms, 1e3 * static_cast<double>(length) / ms, 1e5 * flops / ms / flops_per_second, peer.prefill, peer.prefill / ms,
                gigabytes_in_use());
  }
  {
    Index const length = 2048, n = training_batch * length;
    Tensor<Token, 2> ids{Shape<2>{training_batch, length}};
    Random const random{1};
    for (Index i = 0; i < n; ++i) ids.data()[i] = static_cast<Token>(random.below(static_cast<std::uint64_t>(i), dims.vocab));
    TensorOn<Cuda, Token, 2> const tokens{ctx, ids.shape()};
    upload(ctx, ids.view(), tokens.view());
    Gradients<Net, T, Cuda> gradients{model};
    AdamW<T, Cuda> optimiser{ctx, model.flat(), parameter_segments(model), {}};
    optimiser.request(ctx, 1e-5, 1.0 / static_cast<double>(n));
    double const ms = bench::milliseconds(
        ctx, 1,
        [&](int) {
          gradients.begin_step();
          gradients.queue(tokens, tokens, {.targets = 1});
          optimiser.queue(ctx, gradients.flat());
        },
        3);
    double const rate = 1e3 * static_cast<double>(n) / ms, flops = 3 * forward_flops * static_cast<double>(n);
    std::printf(
        "  training step, %lld x 2048     %9.2f ms  %9.0f tokens/s  %.1f%% of the product  peer %.0f tokens/s: %.2fx  (%.1f GB)\n",
        training_batch, ms, rate, 1e5 * flops / ms / flops_per_second, peer.training, rate / peer.training, gigabytes_in_use());
    std::printf("  loss %.4f, gradient's norm %.3g\n", static_cast<double>(gradients.report().loss()),
                optimiser.report().gradient_norm);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Cuda const ctx;
  cudaDeviceProp device;
  detail::check_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  auto const ceilings = bench::measure_ceilings(ctx);
  double const flops = product_flops_per_second(ctx);
  std::printf("%s: copy %.3f TB/s, product %.0f TFLOP/s; bf16\n", device.name, ceilings.bytes_per_second * 1e-12, flops * 1e-12);
  bool const both = argc < 2 || std::strcmp(argv[1], "--quick") != 0;
  run(ctx, "blackmamba-340m-1.5b", ceilings, flops, 8, {43.0, 53.5, 68.6, 102e3});
  if (both) run(ctx, "blackmamba-630m-2.8b", ceilings, flops, 4, {57.4, 50.8, 80.1, 54e3});
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
