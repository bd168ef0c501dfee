// Whole models of the published sizes with random weights on a GPU: decoding, the prefill of a prompt, a training step.
//
// First the architecture is checked in its smallest preset, logits against a CPU's, which the published sizes would keep for
// minutes. Of those, what is timed is queued once and replayed from a graph: both must leave the same bits where there was poison,
// and what the timed run leaves must be finite.
//
// A decoding step is a graph of the model's step, the draw of a token and what goes between; its share is that of the copy
// bandwidth of this run, counting the weights that a token meets. Prefill and training count the operations of the layers' products
// and scans (backward twice those of forward) over those of an 8192 x 8192 x 8192 product in this run. Training: batches of 2048
// tokens, bf16 with float32 masters, AdamW with clipping, what a pass keeps: activations. Every model's weights are many times the
// L2 cache, and every token is its own. Peers on an H100: BlackMamba's published code; training with torch 2.11's grouped product.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include <blackmamba/cuda.cuh>
#include <blackmamba/io/load.hpp>
#include <blackmamba/io/presets.hpp>
#include <blackmamba/model/gradients.hpp>
#include <blackmamba/ops/sample/advance.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/train/optimiser.hpp>

#include "support/product.cuh"

using namespace blackmamba;

namespace {

using T = bf16;
using Net = PublishedMixture<>;

Tensor<Token, 2> random_tokens(Shape<2> shape, Index vocab) {
  Tensor<Token, 2> out{shape};
  Random const random{1};
  for (Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<Token>(random.below(static_cast<std::uint64_t>(i), vocab));
  return out;
}

/// Logits (B, L, vocab), of a pass or of one step after the other.
template <class M>
auto logits_of(M const& model, Tensor<Token, 2> const& ids, bool steps) {
  using S = typename M::scalar;
  auto const& ctx = model.ctx();
  Index const B = ids.extent(0), L = ids.extent(1), V = model.dims().vocab;
  TensorOn<typename M::context, Token, 2> const tokens{ctx, ids.shape()};
  upload(ctx, ids.view(), tokens.view());
  TensorOn<typename M::context, S, 3> const logits{ctx, Shape<3>{B, L, V}};
  if (steps) {
    auto state = model.make_state(B);
    for (Index t = 0; t < L; ++t)
      model.step(View<Token const, 1>{tokens.data() + t, Shape<1>{B}, Shape<1>{L}},
                 View<S, 2>{logits.data() + t * V, Shape<2>{B, V}, Shape<2>{L * V, 1}}, state);
  } else {
    model.forward(tokens, logits);
  }
  return download(ctx, logits.view());
}

/// The relative error of the logits of the sequence in the middle when they are sorted by it: a token that two precisions send to
/// different experts spoils the sequence that it is in, and few are.
template <class S>
double usual_error(Tensor<S, 3> const& got, Tensor<double, 3> const& exact) {
  Index const B = got.extent(0), each = got.size() / B;
  std::vector<double> errors;
  for (Index b = 0; b < B; ++b) {
    double error = 0, size = 0;
    for (Index i = b * each; i < (b + 1) * each; ++i) {
      double const e = exact.data()[i], g = static_cast<double>(widen(got.data()[i]));
      error += (g - e) * (g - e), size += e * e;
    }
    errors.push_back(std::isfinite(error) ? std::sqrt(error / size) : HUGE_VAL);
  }
  std::sort(errors.begin(), errors.end());
  return errors[errors.size() / 2];
}

void check_small(Cuda const& ctx) {
  auto const dims = io::mixed_dims(io::preset("tiny"));
  Model<Net, T, Cuda> model{dims, ctx};
  Model<Net, T, Cpu> there{dims};
  Model<Net, double, Cpu> exact{dims};
  model.initialise(1), there.initialise(1);
  for (Index i = 0; i < there.flat().size(); ++i) exact.flat().data()[i] = static_cast<double>(widen(there.flat().data()[i]));
  auto const ids = random_tokens(Shape<2>{64, 8}, dims.vocab);
  auto const wanted = logits_of(exact, ids, false);
  double const on_cpu = usual_error(logits_of(there, ids, false), wanted);
  for (bool const steps : {false, true}) {
    double const on_gpu = usual_error(logits_of(model, ids, steps), wanted);
    std::printf("tiny, %s: logits' relative error %.2e, on the CPU %.2e\n", steps ? "step by step" : "in a pass", on_gpu, on_cpu);
    bench::expect(on_gpu <= 2 * on_cpu, steps ? "logits of steps" : "logits of a pass");
  }
}

/// Whether `run` leaves the same bits in `out` when it is queued and when it is replayed, each time from poison.
void expect_alike(Cuda const& ctx, char const* what, auto const& out, auto const& reset, auto const& run) {
  reset(), run();  // sizes the scratch memory
  reset(), bench::poison(ctx, out), run();
  auto const queued = bench::summary(ctx, out);
  reset(), bench::poison(ctx, out);
  CudaGraph const graph{ctx, run};
  graph.launch();
  bench::expect(bench::summary(ctx, out) == queued && queued.not_finite == 0, concat(what, ": a replay and the call differ"));
}

struct Peer {
  double decode, decode64, prefill, training;  ///< ms, ms, ms, tokens a second
};

/// Free and all memory of the card, in GB.
std::pair<double, double> gigabytes() {
  std::size_t free = 0, total = 0;
  detail::check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<double>(free) * 1e-9, static_cast<double>(total) * 1e-9};
}

/// Arenas keep what they once needed: what is in use after a measurement is the most that it took.
double gigabytes_in_use() { return gigabytes().second - gigabytes().first; }

struct Timed {
  char const* name;
  Index training_batch;
  Peer peer;
};

void decode(Cuda const& ctx, Model<Net, T, Cuda> const& model, Index batch, double active_bytes, bench::Ceilings const& ceilings,
            double peer) {
  auto state = model.make_state(batch);
  Index const V = model.dims().vocab;
  DeviceTensor<T, 2> const logits{ctx, Shape<2>{batch, V}};
  TensorOn<Cuda, Token, 1> const tokens{ctx, Shape<1>{batch}};
  TensorOn<Cuda, Token, 2> const history{ctx, Shape<2>{batch, 4096}};
  TensorOn<Cuda, Index, 1> const draws{ctx, Shape<1>{batch}}, column{ctx, Shape<1>{1}};
  upload(ctx, random_tokens(Shape<2>{1, batch}, V).view()[0], tokens.view());
  SampleOptions const options{.temperature = 1};
  auto const step = [&] { model.step(tokens, logits, state); };
  expect_alike(
      ctx, "decode", logits.view(), [&] { state.reset(); }, step);
  bench::poison(ctx, logits);
  double const ms = bench::milliseconds(
      ctx, 8,
      [&](int) {
        step();
        sample(ctx, SampleArgs<T>{.logits = logits, .options = options, .random = Random{1}, .draws = draws, .tokens = tokens});
        advance_sampling(ctx, AdvanceSamplingArgs{.tokens = tokens, .history = history, .column = column, .draws = draws});
      },
      15);
  bench::expect(bench::summary(ctx, logits.view()).not_finite == 0, "decode: logits are not finite");
  for (Token const token : download(ctx, tokens.view())) bench::expect(token >= 0 && token < V, concat("decode: drew ", token));
  std::printf("  decode, batch %-3lld            %9.4f ms  %9.0f tokens/s", batch, ms, 1e3 * static_cast<double>(batch) / ms);
  if (batch == 1) std::printf("  %.1f%% of copy (weights)", 1e5 * active_bytes / ms / ceilings.bytes_per_second);
  std::printf("  peer %.1f ms: %.1fx  (%.1f GB)\n", peer, peer / ms, gigabytes_in_use());
}

void prefill(Cuda const& ctx, Model<Net, T, Cuda> const& model, double flops_per_second, double peer) {
  Index const length = 2048;
  auto const tokens = to_device(ctx, random_tokens(Shape<2>{1, length}, model.dims().vocab));
  DeviceTensor<T, 2> const logits{ctx, Shape<2>{1, model.dims().vocab}};
  auto state = model.make_state(1);
  auto const pass = [&] { model.forward_last(tokens, logits, {.state = &state}); };
  expect_alike(
      ctx, "prefill", logits.view(), [&] { state.reset(); }, pass);
  bench::poison(ctx, logits);
  double const ms = bench::milliseconds(
      ctx, 1, [&](int) { pass(); }, 7);
  bench::expect(bench::summary(ctx, logits.view()).not_finite == 0, "prefill: logits are not finite");
  double const flops = static_cast<double>(flops_per_token<Net>(model.dims())) * static_cast<double>(length);
  std::printf("  prefill of 2048 tokens       %9.3f ms  %9.0f tokens/s  %.1f%% of the product  peer %.1f ms: %.1fx  (%.1f GB)\n",
              ms, 1e3 * static_cast<double>(length) / ms, 1e5 * flops / ms / flops_per_second, peer, peer / ms, gigabytes_in_use());
}

void train(Cuda const& ctx, Model<Net, T, Cuda>& model, Index batch, double flops_per_second, double peer) {
  Index const length = 2048, n = batch * length;
  auto const tokens = to_device(ctx, random_tokens(Shape<2>{batch, length}, model.dims().vocab));
  Gradients<Net, T, Cuda> gradients{model};
  AdamW<T, Cuda> optimiser{ctx, model.flat(), parameter_segments(model), {}};
  optimiser.request(ctx, 1e-5, 1.0 / static_cast<double>(n));
  auto const pass = [&] {
    gradients.begin_step();
    gradients.queue(tokens, tokens, {.targets = 1});
  };
  expect_alike(
      ctx, "gradients", gradients.flat(), [] {}, pass);
  double const ms = bench::milliseconds(
      ctx, 1, [&](int) { pass(), optimiser.queue(ctx, gradients.flat()); }, 3);
  auto const report = optimiser.report();
  double const rate = 1e3 * static_cast<double>(n) / ms, loss = static_cast<double>(gradients.report().loss()),
               flops = 3 * static_cast<double>(flops_per_token<Net>(model.dims())) * static_cast<double>(n);
  bench::expect(report.applied && std::isfinite(loss) && bench::summary(ctx, model.flat()).not_finite == 0,
                "training: a loss, gradient or weight is not finite");
  std::printf(
      "  training step, %lld x 2048     %9.2f ms  %9.0f tokens/s  %.1f%% of the product  peer %.0f tokens/s: %.2fx  (%.1f GB)\n",
      batch, ms, rate, 1e5 * flops / ms / flops_per_second, peer, rate / peer, gigabytes_in_use());
  std::printf("  loss %.4f, gradient's norm %.3g\n", loss, report.gradient_norm);
}

void run(bench::Ceilings const& ceilings, double flops_per_second, Timed const& timed) {
  Cuda const ctx;  // whose scratch memory is this model's alone
  auto const dims = io::mixed_dims(io::preset(timed.name));
  auto const count = count_parameters<Net>(dims);
  std::printf("\n%s: %lld parameters, %lld active\n", timed.name, count.total, count.active);
  Model<Net, T, Cuda> model{dims, ctx};
  model.initialise(1);
  decode(ctx, model, 1, static_cast<double>(count.active) * sizeof(T), ceilings, timed.peer.decode);
  decode(ctx, model, 64, 0, ceilings, timed.peer.decode64);
  prefill(ctx, model, flops_per_second, timed.peer.prefill);
  try {
    train(ctx, model, timed.training_batch, flops_per_second, timed.peer.training);
  } catch (memory_error const& e) {
    double const before = static_cast<double>(count.total) * (sizeof(T) + 4 * sizeof(float)) * 1e-9;
    std::printf(
        "  training step, %lld x 2048: does not fit in the %.1f GB of this card; weights, gradients, masters and moments alone "
        "are %.1f GB (%s)\n",
        timed.training_batch, gigabytes().second, before, e.what());
  }
}

}  // namespace

/// --quick: the smaller size alone.
int main(int argc, char** argv) {
  bool const both = argc < 2 || std::strcmp(argv[1], "--quick") != 0;
  return bench::program("all that is checked is right", [&](Cuda const& ctx, bench::Ceilings const& ceilings) {
    double const flops = bench::product_flops_per_second(ctx);
    std::printf("8192³ product %.0f TFLOP/s; bf16\n", flops * 1e-12);
    check_small(ctx);
    run(ceilings, flops, {"blackmamba-340m-1.5b", 8, {43.0, 53.5, 68.6, 102e3}});
    if (both) run(ceilings, flops, {"blackmamba-630m-2.8b", 4, {57.4, 50.8, 80.1, 54e3}});
  });
}
