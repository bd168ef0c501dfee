// What holds for every router of the list on a GPU: it does there what it does on the CPU.

#include <blackmamba/cuda.cuh>

#include "cuda/support.cuh"
#include "support/router_test.hpp"

using namespace blackmamba;
using test::random_tensor;
using test::same_bits;

namespace {

template <class R>
constexpr bool plans = std::is_same_v<R, Sinkhorn> || std::is_same_v<R, SinkhornMegatron> || std::is_same_v<R, SinkhornLog>;

/// A router's part of a layer, in the memory of a context.
template <class R, Context Ctx, Scalar T>
struct Layer {
  using A = accumulator_t<T>;
  Ctx ctx;
  Dims d;
  Index tokens;
  TensorOn<Ctx, T, 2> logits{ctx, Shape{tokens, d.n_experts}}, d_logits{ctx, logits.shape()};
  TensorOn<Ctx, T, 1> memory{ctx, Shape{router_memory<R>(d)}};
  TensorOn<Ctx, Token, 1> names{ctx, Shape{tokens}};
  TensorOn<Ctx, Index, 1> offsets{ctx, Shape<1>{4}};
  TensorOn<Ctx, int, 2> experts{ctx, Shape{tokens, router_slots<R>(d)}};
  TensorOn<Ctx, A, 2> weights{ctx, experts.shape()}, d_weights{ctx, experts.shape()};
  TensorOn<Ctx, A, 1> observed{ctx, Shape{d.n_experts}}, loss{ctx, Shape<1>{1}};
  TensorOn<Ctx, RouterReport<A>, 1> report{ctx, Shape<1>{1}};

  Layer(Ctx const& on, Dims const& dims, Tensor<T, 2> const& x, bool used) : ctx{on}, d{dims}, tokens{x.extent(0)} {
    upload(ctx, x.view(), logits.view());
    upload(ctx, test::router_tokens(tokens).view(), names.view());
    upload(ctx, random_tensor<A>(weights.shape(), 7).view(), d_weights.view());
    auto start = test::some_memory<T>(memory.size());
    if (memory.size() == 1) start(0) = static_cast<T>(17.5f);  // a ReLU's λ of about 0.4
    if (used) upload(ctx, start.view(), memory.view());
    Tensor<Index, 1> packing{Shape<1>{4}};
    packing(1) = packing(2) = tokens / 3, packing(3) = tokens;
    upload(ctx, packing.view(), offsets.view());
  }

  Pass<Ctx, T> pass(Mode mode) const {
    return {.ctx = ctx, .offsets = offsets.view(), .mode = mode, .layer = 2, .tokens = names.view(), .seed = 5};
  }
  void route(Mode mode) {
    R::route(pass(mode), d,
             RouterArgs<T>{.logits = logits.view(),
                           .memory = memory.view(),
                           .experts = experts,
                           .weights = weights,
                           .observed = observed,
                           .report = report});
  }
  /// The gates' gradient, and the loss' beside it.
  void backward() {
    R::backward(pass(Mode::training), d,
                RouterBackwardArgs<T>{.logits = logits.view(),
                                      .memory = memory.view(),
                                      .experts = experts.view(),
                                      .weights = weights.view(),
                                      .d_weights = d_weights.view(),
                                      .d_logits = d_logits});
    if constexpr (detail::HasRouterLoss<R>)
      R::loss(pass(Mode::training), d,
              RouterLossArgs<T>{.logits = logits.view(),
                                .memory = memory.view(),
                                .experts = experts.view(),
                                .observed = observed.view(),
                                .scale = 0.5,
                                .loss = loss,
                                .d_logits = d_logits});
  }
};

/// Both sides round, once where they write and in sums of so many terms.
template <class A, int Rank>
void check_close(Tensor<A, Rank> const& got, Tensor<A, Rank> const& expected, double terms, double gain = 2) {
  CHECK_CLOSE(
      verify::compare(got.view(), converted<double>(expected).view(), {.terms = terms, .roundings = 2, .gain = gain, .scale = 1}));
}

template <class R, Scalar T>
void check(Index tokens, Index E, Index k, bool used, RouterOptions const& options = {}) {
  INFO(concat("tokens ", tokens, ", E ", E, ", k ", k, used ? ", memory in use" : "", ", scope ", static_cast<int>(options.scope),
              ", capacity ", options.capacity_factor, ", normalise ", options.normalise, ", groups ", options.groups));
  auto const d = test::router_dims<R>(E, k, options);
  auto const x = random_tensor<T>(Shape{tokens, E}, static_cast<std::uint64_t>(tokens + 100 * E + k));
  Layer<R, Cpu, T> host{Cpu{1}, d, x, used};
  Layer<R, Cuda, T> device{Cuda{}, d, x, used};
  auto const of = [&](auto const& tensor) { return download(device.ctx, tensor.view()); };
  auto const on_host = [](auto const& tensor) { return download(Cpu{1}, tensor.view()); };
  for (Mode mode : {Mode::inference, Mode::training}) {
    host.route(mode), device.route(mode);
    auto const experts = of(device.experts), expected = on_host(host.experts);
    // Where the exact plan has equal entries, rounding decides, and the contexts round differently.
    if (plans<R> && mode == Mode::training && tokens == 1)
      upload(device.ctx, expected.view(), device.experts.view());
    else
      CHECK(same_bits(experts, expected));
    auto weights = of(device.weights), exact = on_host(host.weights);
    for (Index i = 0; i < weights.size(); ++i)
      if (experts.data()[i] < 0 || experts.data()[i] != expected.data()[i]) weights.data()[i] = exact.data()[i] = 0;
    check_close(weights, exact, static_cast<double>(E));
    // An iteration's errors go into the next one.
    check_close(of(device.observed), on_host(host.observed), static_cast<double>(tokens + E), plans<R> ? 64 : 2);
  }
  auto const told = of(device.report), there = on_host(host.report);
  CHECK(told(0).iterations == there(0).iterations);
  CHECK(std::fabs(told(0).marginal_error - there(0).marginal_error) <= 0x1p-24 * 64 * static_cast<double>(tokens + E));

  auto experts = on_host(host.experts);
  if (options.capacity_factor > 0)
    for (Index i = 0; i < experts.size(); ++i)
      if (i % 7 == 1 || i % 7 == 3) experts.data()[i] = -1;
  upload(host.ctx, experts.view(), host.experts.view()), upload(device.ctx, experts.view(), device.experts.view());
  upload(host.ctx, on_host(host.weights).view(), host.weights.view());
  host.backward(), device.backward();
  check_close(of(device.d_logits), on_host(host.d_logits), static_cast<double>(tokens + E));
  check_close(of(device.loss), on_host(host.loss), static_cast<double>(tokens + E), static_cast<double>(2 * E));
}

}  // namespace

GPU_TEST_TEMPLATE("every router: on a GPU experts, weights, gradient and loss are those of the CPU", T, float, bf16) {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    for (Index tokens : {0, 1, 7, 333})
      for (bool used : {false, true}) {
        check<R, T>(tokens, 1, 1, used);
        check<R, T>(tokens, 4, 2, used, {.normalise = false, .scope = BalanceScope::sequence});
        check<R, T>(tokens, 8, 4, used, {.capacity_factor = 1, .groups = 4, .groups_kept = 2});
        check<R, T>(tokens, 16, 1, used, {.capacity_factor = 1, .scope = BalanceScope::global});
        check<R, T>(tokens, 16, 4, used, {.balance = 0.5});
      }
  });
}

GPU_TEST("every router: a NaN among the logits is told with its place, except where logits are not read") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    if (std::is_same_v<R, HashRouter> || std::is_same_v<R, RandomRouter>) return;
    Tensor<float, 2> logits{Shape<2>{3, 4}};
    logits(1, 2) = std::nanf("");
    for (Mode mode : {Mode::inference, Mode::training}) {
      Cuda const ctx;  // of faults in several operations, the one is told that the context met first
      Layer<R, Cuda, float> layer{ctx, test::router_dims<R>(4, 1), logits, false};
      layer.route(mode);
      std::string said;
      try {
        ctx.synchronize();
      } catch (value_error const& e) {
        said = e.what();
      }
      INFO(said);
      bool const by_plan = plans<R> && mode == Mode::training;  // which tells the token alone
      CHECK(said.find(by_plan ? "token 1 are not all finite" : "token 1 for expert 2 is NaN") != std::string::npos);
      for (int const e : download(ctx, layer.experts.view())) CHECK((e >= -1 && e < 4));
    }
  });
}

GPU_TEST("every router, named at run time: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  for (Index kind = 0; kind < Routers::size; ++kind) {
    INFO(std::string{Routers::names()[static_cast<std::size_t>(kind)]});
    Dims const d{.n_experts = 8, .top_k = kind == 0 ? 1 : 2, .router = {.kind = kind, .capacity_factor = 1}};
    Layer<ConfiguredRouter, Cuda, bf16> layer{ctx, d, random_tensor<bf16>(Shape<2>{500, 8}, 3), true};
    auto const reset = [&] {
      set_zero(ctx, layer.observed.view()), set_zero(ctx, layer.loss.view());
      test::poison(ctx, layer.experts), test::poison(ctx, layer.weights), test::poison(ctx, layer.d_logits);
    };
    auto const run = [&] {
      layer.route(Mode::inference), layer.route(Mode::training);
      layer.backward();
    };
    test::expect_repeatable(ctx, reset, run, layer.experts, layer.weights, layer.observed, layer.d_logits, layer.loss);
  }
}
