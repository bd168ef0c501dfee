// Layers of the published sizes on a GPU, as networks run them: the Mamba block and the mixture of experts, forward, with backward,
// and one decoding step. What a layer puts out is checked against the same layer on the CPU first, then all is timed.
//
// Times are medians of graph replays; steps go round layers whose weights together exceed the L2 cache. `tokens` activations that a
// layer keeps for its way back are part of forward with backward. Peers: mamba_ssm 2.3.2 and torch 2.11 on an H100, bf16.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include <blackmamba/cuda.cuh>
#include <blackmamba/model/networks.hpp>
#include <blackmamba/model/parameters.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

using T = bf16;
using A = float;

bool all_right = true;

/// A mixer as something that `Weights` can hold.
template <class M>
struct Alone {
  using Dims = blackmamba::Dims;
  template <class S>
  using Params = typename M::template Params<S>;
  template <class S>
  using State = typename M::template State<S>;
  static constexpr void parameters(auto& p, Dims const& d, auto& visit) { M::parameters(p, d, visit); }
  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) { M::state(s, d, batch, visit); }
};

/// A layer with random weights.
template <class M>
struct Layer {
  Dims d;
  Cuda ctx;
  Weights<Alone<M>, T, Cuda> weights{d, ctx};

  Layer(Dims const& dims, Cuda const& context, std::uint64_t seed) : d{dims}, ctx{context} {
    detail::InitialiseReader reader{Random{seed}, 2 * d.depth};
    weights.walk(d, reader);
  }
};

double rms(View<T const, 3> got, View<double const, 3> wanted) {
  double error = 0, size = 0;
  for (Index l = 0; l < got.extent(1); ++l)
    for (Index i = 0; i < got.extent(2); ++i) {
      double const e = wanted(0, l, i), g = static_cast<double>(widen(got(0, l, i)));
      error += (g - e) * (g - e), size += e * e;
    }
  return std::sqrt(error / size);
}

/// The layer's first outputs, which depend on the first inputs alone, against the CPU in double: as near as the CPU's own in bf16.
template <class M>
void check(char const* name, Layer<M>& layer, View<T const, 3> x, View<T const, 3> y) {
  Index const n = 48, D = layer.d.d_model;
  auto const rows = [&](View<T const, 3> of) { return download(layer.ctx, View<T const, 3>{of.data(), Shape<3>{1, n, D}}); };
  Tensor<T, 3> const x16 = rows(x), got = rows(y);
  auto const on_cpu = [&]<class S>(Type<S>) {
    Weights<Alone<M>, S> there{layer.d};
    auto const flat = download(layer.ctx, layer.weights.flat());
    for (Index i = 0; i < flat.size(); ++i) there.flat()[i] = static_cast<S>(static_cast<accumulator_t<S>>(widen(flat(i))));
    Tensor<S, 3> const in = converted<S>(x16);
    Tensor<S, 3> out{in.shape()};
    Cpu const cpu;
    typename M::template State<S> const* const none = nullptr;
    M::forward(Pass<Cpu, S>{.ctx = cpu}, layer.d, there.params(), in, out, none);
    return out;
  };
  auto const exact = on_cpu(Type<double>{});
  auto const narrow = on_cpu(Type<T>{});
  double const here = rms(got, exact), usual = rms(narrow, exact);
  bool const right = here <= 1.5 * usual;
  all_right = all_right && right;
  if (!right) std::printf("WRONG %s: relative error %.2e, on the CPU %.2e\n", name, here, usual);
}

void report(char const* name, char const* shape, double ms, double flops, double bytes, bench::Ceilings const& ceilings,
            double peer) {
  std::printf("%-26s %-28s %9.4f", name, shape, ms);
  if (flops > 0) std::printf("  %6.1f TFLOP/s", flops / ms * 1e-9);
  if (bytes > 0) std::printf("  %5.1f%% of copy", 1e5 * bytes / ms / ceilings.bytes_per_second);
  if (peer > 0) std::printf("  peer %.3f ms: %.2fx", peer, peer / ms);
  std::printf("\n");
}

/// Forward, and forward with backward, of `tokens` tokens in sequences of `length`.
template <class M>
void passes(char const* name, Cuda const& ctx, bench::Ceilings const& ceilings, Dims const& d, Index tokens, Index length,
            double peer_forward, double peer_both, bool backward = true) {
  Layer<M> layer{d, ctx, 1};
  Shape<3> const shape{tokens / length, length, d.d_model};
  auto const x = bench::random_on_device<T>(ctx, shape, 1), d_y = bench::random_on_device<T>(ctx, shape, 2, 0, 0.01f);
  DeviceTensor<T, 3> const y{ctx, shape}, d_x{ctx, shape};
  Arena tape{ctx.memory()}, carry{ctx.memory()};
  Pass<Cuda, T> const pass{.ctx = ctx, .tape = &tape, .carry = &carry};
  typename M::template State<T> const* const none = nullptr;
  auto const forward = [&](int) { M::forward(pass, d, layer.weights.params(), x, y, none); };
  forward(0);
  check(name, layer, View<T const, 3>{x.view()}, View<T const, 3>{y.view()});
  double const flops = static_cast<double>(M::flops_per_token(d)) * static_cast<double>(tokens);
  char text[64];
  std::snprintf(text, sizeof text, "%lld x %lld, d_model %lld", tokens / length, length, d.d_model);
  report(concat(name, " forward").c_str(), text, bench::milliseconds(ctx, 4, forward), flops, 0, ceilings, peer_forward);
  if (!backward) return;
  Weights<Alone<M>, A, Cuda> gradients{d, ctx};
  saved_t<M, T> saved;
  auto const both = [&](int) {
    auto const scope = tape.scope();
    M::forward(pass, d, layer.weights.params(), x, y, none, &saved);
    M::backward(pass, d, layer.weights.params(), saved, x, d_y, d_x, gradients.params());
  };
  report(concat(name, " forward + backward").c_str(), text, bench::milliseconds(ctx, 2, both), 3 * flops, 0, ceilings, peer_both);
}

/// One decoding step of `batch` sequences.
template <class M>
void steps(char const* name, Cuda const& ctx, bench::Ceilings const& ceilings, Dims const& d, Index batch) {
  using Net = Alone<M>;
  std::vector<std::unique_ptr<Layer<M>>> layers;
  Index const bytes_each = Weights<Net, T>{d}.flat().size() * static_cast<Index>(sizeof(T));
  int const count = 1 + static_cast<int>(150'000'000 / bytes_each);
  std::vector<std::unique_ptr<Arena>> memory;
  std::vector<typename M::template State<T>> states(static_cast<std::size_t>(count));
  double state_bytes = 0;
  for (int i = 0; i < count; ++i) {
    layers.push_back(std::make_unique<Layer<M>>(d, ctx, static_cast<std::uint64_t>(i)));
    auto& arena = *memory.emplace_back(std::make_unique<Arena>(ctx.memory()));
    state_bytes = 0;
    auto const take = [&](auto& view, auto shape) {
      using Element = typename std::remove_reference_t<decltype(view)>::value_type;
      view = arena.template take_zeros<Element>(shape);
      state_bytes += static_cast<double>(view.size()) * sizeof(Element);
    };
    M::state(states[static_cast<std::size_t>(i)], d, batch, take);
  }
  auto const x = bench::random_on_device<T>(ctx, Shape<2>{batch, d.d_model}, 1);
  DeviceTensor<T, 2> const y{ctx, Shape<2>{batch, d.d_model}};
  Pass<Cuda, T> const pass{.ctx = ctx};
  AtRest<Cuda> const weights_are{ctx};  // as in a model's step
  ctx.synchronize();
  double const ms = bench::milliseconds(ctx, 4 * count, [&](int i) {
    auto const n = static_cast<std::size_t>(i % count);
    M::step(pass, d, layers[n]->weights.params(), x, y, states[n]);
  });
  // Of a mixture, the experts that are chosen: at batch 1 one of them.
  double const share =
      std::is_same_v<M, Mamba> || batch > 8 ? 1.0 : static_cast<double>(d.top_k) / static_cast<double>(d.n_experts);
  double const bytes = static_cast<double>(bytes_each) * share + 2 * state_bytes;
  char text[64];
  std::snprintf(text, sizeof text, "batch %lld, d_model %lld", batch, d.d_model);
  report(concat(name, " step").c_str(), text, ms, 0, bytes, ceilings, 0);
  double const floor = 1e3 * bytes / ceilings.bytes_per_second;
  std::printf("%-26s %-28s %9.4f  its bytes' time %.4f; 1.5 times that + 3 us is %.4f\n", "", "", ms, floor, 1.5 * floor + 0.003);
}

}  // namespace

int main(int argc, char** argv) try {
  bool const only_steps = argc > 1 && !std::strcmp(argv[1], "--steps");
  bool const quick = only_steps || (argc > 1 && !std::strcmp(argv[1], "--quick"));
  Cuda const ctx;
  cudaDeviceProp device;
  detail::check_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  auto const ceilings = bench::measure_ceilings(ctx);
  std::printf("%s: copy %.3f TB/s; bf16\n\n%-26s %-28s %9s\n", device.name, ceilings.bytes_per_second * 1e-12, "what", "shape",
              "ms");
  Dims const small = blackmamba_340m_1_5b, large = blackmamba_630m_2_8b;
  using Mixture = MoE<Top1Sigmoid, GeGlu>;
  if (!only_steps) {
    passes<Mamba>("Mamba", ctx, ceilings, small, 16384, 2048, 1.17, 5.14);
    passes<Mixture>("MoE", ctx, ceilings, small, 16384, 2048, 1.340, 0);
  }
  passes<Mixture>("MoE", ctx, ceilings, small, 64, 64, 0.268, 0, false);
  for (Index const batch : {1, 64}) steps<Mamba>("Mamba", ctx, ceilings, small, batch);
  steps<Mixture>("MoE", ctx, ceilings, small, 1);
  if (!quick) {
    passes<Mamba>("Mamba", ctx, ceilings, large, 16384, 2048, 1.63, 7.00);
    passes<Mixture>("MoE", ctx, ceilings, large, 16384, 2048, 1.749, 0);
    passes<Mixture>("MoE", ctx, ceilings, small, 2048, 2048, 0.534, 0, false);
    steps<Mixture>("MoE", ctx, ceilings, small, 64);
    steps<Mamba>("Mamba", ctx, ceilings, large, 1);
  }
  std::printf("%s\n", all_right ? "every checked output is as near to the exact one as the CPU's" : "SOME OUTPUTS ARE WRONG");
  return all_right ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
