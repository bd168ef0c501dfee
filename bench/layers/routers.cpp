// Every router of the list: routing in training and at inference, and the gradients of gates and losses, in f32, from memory as a
// few steps leave it; and the mixture layer of the preset `tiny`, whose time a router's is to be compared with.

#include <string>

#include <blackmamba/model/gradients.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/logits.hpp"

namespace {

using namespace blackmamba;

/// Whether a router takes k experts a token: top1 has one slot.
template <class R>
bool takes(Index k) {
  Dims const d{.n_experts = k + 1, .top_k = k};
  Tensor<float, 2> const logits{Shape{Index{1}, d.n_experts}};
  Tensor<float, 1> const memory{Shape{router_memory<R>(d)}};
  Tensor<Token, 1> const token{Shape<1>{1}};
  Tensor<int, 2> experts{Shape{Index{1}, router_slots<R>(d)}};
  Tensor<float, 2> weights{experts.shape()};
  Reference const ctx;
  try {
    R::route(Pass<Reference, float>{.ctx = ctx, .tokens = token}, d,
             RouterArgs<float>{.logits = logits, .memory = memory, .experts = experts, .weights = weights});
  } catch (value_error const&) {
    return false;
  }
  return true;
}

template <class R>
struct Routing {
  Dims d;
  Cpu ctx;
  Index tokens;
  Tensor<float, 2> logits = bench::router_logits(tokens, d.n_experts, 1);
  Tensor<Token, 1> names{Shape{tokens}};
  Tensor<float, 1> memory{Shape{router_memory<R>(d)}}, observed{Shape{d.n_experts}};
  Tensor<int, 2> experts{Shape{tokens, router_slots<R>(d)}};
  Tensor<float, 2> weights{experts.shape()}, d_weights{experts.shape()}, d_logits{logits.shape()};
  Tensor<RouterReport<float>, 1> report{Shape<1>{1}};
  Tensor<float, 1> loss{Shape<1>{1}};

  Routing(Dims const& dims, Cpu const& on, Index count) : d{dims}, ctx{on}, tokens{count} {
    for (Index i = 0; i < tokens; ++i) names(i) = static_cast<Token>(i * i % 251);
    for (float& g : d_weights) g = 1e-4f;
    for (std::uint64_t step = 2; step < 6; ++step) {
      route(Mode::training, bench::router_logits(tokens, d.n_experts, step));
      Tensor<Index, 1> load{observed.shape()};
      for (int const e : experts)
        if (e >= 0) ++load(e);
      if constexpr (detail::HasUpdate<R>)
        R::update(d, RouterUpdate<float>{.load = load, .tokens = tokens, .observed = observed, .memory = memory});
    }
    route(Mode::training, logits);
  }

  Pass<Cpu, float> pass(Mode mode) const { return {.ctx = ctx, .mode = mode, .tokens = names}; }

  void route(Mode mode, View<float const, 2> of) {
    for (float& o : observed) o = 0;
    R::route(pass(mode), d,
             RouterArgs<float>{
                 .logits = of, .memory = memory, .experts = experts, .weights = weights, .observed = observed, .report = report});
  }
  void backward() {
    R::backward(pass(Mode::training), d,
                RouterBackwardArgs<float>{.logits = logits,
                                          .memory = memory,
                                          .experts = experts,
                                          .weights = weights,
                                          .d_weights = d_weights,
                                          .d_logits = d_logits});
    if constexpr (detail::HasRouterLoss<R>)
      R::loss(
          pass(Mode::training), d,
          RouterLossArgs<float>{
              .logits = logits, .memory = memory, .experts = experts, .observed = observed, .loss = loss, .d_logits = d_logits});
  }
};

enum class What { training, inference, backward };

template <class R>
void router(benchmark::State& state, What what, Index tokens, Index E, Index k, int threads) {
  Routing<R> routing{Dims{.n_experts = E, .top_k = takes<R>(k) ? k : 1}, Cpu{threads}, tokens};
  for (auto _ : state) {
    if (what == What::backward)
      routing.backward();
    else
      routing.route(what == What::training ? Mode::training : Mode::inference, routing.logits);
    benchmark::ClobberMemory();
  }
  bench::report_logits(state, tokens, E);
  if (what == What::training && routing.report(0).iterations > 0) {
    state.counters["plan iterations"] = static_cast<double>(routing.report(0).iterations);
    state.counters["marginal error"] = routing.report(0).marginal_error;
  }
}

/// A training pass of one mixture of `tiny`, forwards and backwards.
void layer(benchmark::State& state, Index count, int threads) {
  using Layer = MoE<Top1Sigmoid, GeGlu>;
  Dims dims = blackmamba_tiny;
  dims.depth = 1;
  Model<Stack<Repeat<Residual<RmsNorm, Layer>>>, float, Cpu> model{dims, Cpu{threads}};
  model.initialise(1);
  Gradients gradients{model};
  auto const& p = std::get<0>(model.params().body[0]).mixer;
  auto const& g = std::get<0>(gradients.params().body[0]).mixer;
  Tensor<float, 3> x{Shape<3>{1, count, dims.d_model}}, y{x.shape()}, d_x{x.shape()};
  Random const random{1};
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  Arena tape, carry;
  Layer::Saved<float> saved;
  Pass<Cpu, float> const pass{.ctx = model.ctx(), .mode = Mode::training, .tape = &tape, .carry = &carry};
  for (auto _ : state) {
    auto const scope = tape.scope();
    Layer::State<float> const* const none = nullptr;
    Layer::forward(pass, dims, p, x, y, none, &saved);
    Layer::backward(pass, dims, p, saved, x, y, d_x, g);
    benchmark::ClobberMemory();
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}

void add(std::string const& name, auto&& body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(0.2);
}

struct Size {
  Index tokens, experts, k;
};

void add_all(int threads) {
  std::string const suffix = concat("/threads:", threads);
  Index constexpr of_tiny = 2048;
  add(concat("layer/", of_tiny) + suffix, [threads](benchmark::State& s) { layer(s, of_tiny, threads); });
  for (Size const size : {Size{of_tiny, 8, 1}, Size{16384, 8, 1}, Size{4096, 64, 4}})
    for (Index kind = 0; kind < Routers::size; ++kind)
      Routers::visit(kind, [&]<class R>(std::type_identity<R>) {
        auto const add_one = [&](char const* name, What what) {
          add(concat(R::name, "/", size.tokens, "x", size.experts, "/", name) + suffix,
              [=](benchmark::State& s) { router<R>(s, what, size.tokens, size.experts, size.k, threads); });
        };
        add_one("training", What::training);
        add_one("inference", What::inference);
        if constexpr (detail::HasRouterBackward<R>) add_one("backward", What::backward);
      });
}

}  // namespace

int main(int argc, char** argv) {
  bench::ceilings();
  add_all(1);
  if (int const all = available_threads(); all > 1) add_all(all);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
