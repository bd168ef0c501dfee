// The gradients of a whole mixture layer with each router of the list: gates, the router's own loss, the z-loss and full experts,
// by dual numbers through the forward pass of the layer, double, 1e-12.

#include <vector>

#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/moe.hpp>
#include <blackmamba/layers/routers/list.hpp>
#include <blackmamba/model/parameters.hpp>

#include "support/router_test.hpp"

using namespace blackmamba;

namespace {

using D = Dual<double>;

constexpr Index tokens = 11;

/// What every router is asked with: six experts, two a token where the rule has a choice.
Dims sizes(std::string_view router, Index k, RouterOptions options) {
  options.kind = Routers::index(router);
  return Dims{.d_model = 4, .d_ffn = 3, .n_experts = 6, .top_k = router == "top1" ? 1 : k, .linear_bias = true, .router = options};
}

/// A mixture, its parameters, and what a step of passes over given rows leaves.
template <class T, class E>
struct Layer {
  using L = MoE<ConfiguredRouter, E>;
  using Params = typename L::template Params<T>;

  Dims d;
  Reference ctx{};
  std::vector<T> flat;
  Params p{};
  Arena tape{}, carry{};
  typename L::template Saved<T> saved{};

  explicit Layer(Dims const& dims) : d{dims} {
    detail::FlatSizeReader size;
    L::parameters(p, d, size);
    flat.assign(static_cast<std::size_t>(size.elements), T(0.0));
    detail::BindReader<T> bind{flat.data()};
    L::parameters(p, d, bind);
  }

  Pass<Reference, T> pass(View<Index const, 1> offsets, View<Token const, 1> names, Keep keep) {
    return {.ctx = ctx,
            .offsets = offsets,
            .mode = Mode::training,
            .layer = 3,
            .tokens = names,
            .seed = 5,
            .tape = &tape,
            .keep = keep,
            .carry = &carry,
            .auxiliary_scale = 0.5};
  }
};

/// Rows of a pass, what its output is weighted by, and where its sequences begin.
struct Rows {
  Tensor<double, 3> x, c;
  Tensor<Token, 1> names = test::router_tokens(tokens);
  Tensor<Index, 1> offsets{Shape<1>{4}};

  explicit Rows(std::uint64_t seed)
      : x{test::random_tensor<double>(Shape<3>{1, tokens, 4}, seed)}, c{test::random_tensor<double>(x.shape(), seed + 50)} {
    offsets(1) = offsets(2) = 4, offsets(3) = tokens;  // the second has no token
  }
};

/// Σ c · y + auxiliary_scale · (the router's loss + z · the z-loss), summed over the passes of a step. Each pass counts what the
/// passes before it observed.
template <class T, class E>
T loss(Layer<T, E>& layer, std::vector<Rows> const& passes, std::vector<Tensor<T, 3>> const& x, std::vector<int>& experts) {
  using L = MoE<ConfiguredRouter, E>;
  T sum{0};
  experts.clear();
  layer.saved = {};
  auto const carried = layer.carry.scope();
  for (std::size_t n = 0; n < passes.size(); ++n) {
    auto const taped = layer.tape.scope();
    auto const pass = layer.pass(passes[n].offsets, passes[n].names, Keep::activations);
    Tensor<T, 3> y{x[n].shape()};
    typename L::template State<T> const* const none = nullptr;
    auto& s = layer.saved;
    L::forward(pass, layer.d, layer.p, x[n], y, none, &s);
    for (Index i = 0; i < y.size(); ++i) sum += T{passes[n].c.data()[i]} * y.data()[i];
    experts.insert(experts.end(), s.experts.data(), s.experts.data() + s.experts.size());
    Tensor<T, 1> own{Shape<1>{1}};
    ConfiguredRouter::loss(
        pass, layer.d,
        RouterLossArgs<T>{.logits = s.logits, .memory = layer.p.memory, .experts = s.experts, .observed = s.observed, .loss = own});
    sum += T{pass.auxiliary_scale} * own(0);
    sum +=
        T{pass.auxiliary_scale * layer.d.router.z_coefficient} * router_z_loss(layer.ctx, RouterZLossArgs<T>{.logits = s.logits});
  }
  return sum;
}

template <class E>
void check(Dims const& d, int count, Keep keep) {
  INFO(concat(Routers::names()[static_cast<std::size_t>(d.router.kind)], ", k ", d.top_k, ", capacity ", d.router.capacity_factor,
              ", passes ", count));
  using L = MoE<ConfiguredRouter, E>;
  std::vector<Rows> passes;
  for (int n = 0; n < count; ++n) passes.emplace_back(10 + n);

  Layer<double, E> layer{d};
  for (std::size_t i = 0; i < layer.flat.size(); ++i) layer.flat[i] = 0.6 * Random{9}.normal(i);
  // Logits that tell experts apart, and memory that a router could have: a ReLU's λ of about 0.4, or thresholds and biases.
  for (Index i = 0; i < layer.p.router.size(); ++i) layer.p.router.data()[i] *= 2;
  for (Index i = 0; i < layer.p.memory.size(); ++i)
    layer.p.memory(i) = d.router.kind == Routers::index("relu") ? 17.5 : 0.2 + 0.05 * static_cast<double>(i);

  Layer<double, E> gradient{d};
  std::vector<Tensor<double, 3>> x, d_x;
  Index dropped = 0;
  double reported = 0, sum = 0;
  for (auto const& rows : passes) {
    auto const taped = layer.tape.scope();
    auto const pass = layer.pass(rows.offsets, rows.names, keep);
    Tensor<double, 3> y{rows.x.shape()};
    typename L::template State<double> const* const none = nullptr;
    x.push_back(rows.x.clone()), d_x.emplace_back(rows.x.shape());
    L::forward(pass, d, layer.p, x.back(), y, none, &layer.saved);
    dropped += layer.saved.report(0).dropped;
    L::backward(pass, d, layer.p, layer.saved, x.back(), rows.c, d_x.back(), gradient.p);
    for (Index i = 0; i < y.size(); ++i) sum += rows.c.data()[i] * y.data()[i];
    reported += pass.auxiliary_scale * (layer.saved.report(0).loss + layer.saved.report(0).z_loss);
  }
  CHECK((dropped > 0) == (d.router.capacity_factor > 0));

  Layer<D, E> dual{d};
  for (std::size_t i = 0; i < dual.flat.size(); ++i) dual.flat[i] = D{layer.flat[i]};
  std::vector<Tensor<D, 3>> dual_x;
  for (auto const& rows : passes) dual_x.push_back(converted<D>(rows.x));
  std::vector<int> chosen, experts;
  double const value = loss(dual, passes, dual_x, chosen).value;
  CHECK(std::fabs(value - (sum + reported)) <= 1e-13);

  // Memory is no parameter that learns: it has no gradient, whatever the loss does with it.
  auto const memory_begin = static_cast<std::size_t>(dual.p.memory ? dual.p.memory.data() - dual.flat.data() : 0);
  auto const memory_end = memory_begin + static_cast<std::size_t>(dual.p.memory ? dual.p.memory.size() : 0);
  std::vector<double> got, expected;
  auto const measure = [&] {
    expected.push_back(loss(dual, passes, dual_x, experts).tangent);
    if (experts != chosen) FAIL("the experts moved");
  };
  for (std::size_t i = 0; i < dual.flat.size(); ++i) {
    if (i >= memory_begin && i < memory_end) {
      CHECK(gradient.flat[i] == 0);
      continue;
    }
    if (i % 3 != 0) continue;
    dual.flat[i].tangent = 1;
    got.push_back(gradient.flat[i]);
    measure();
    dual.flat[i].tangent = 0;
  }
  for (std::size_t n = 0; n < dual_x.size(); ++n)
    for (Index i = 0; i < dual_x[n].size(); i += 3) {
      dual_x[n].data()[i].tangent = 1;
      got.push_back(d_x[n].data()[i]);
      measure();
      dual_x[n].data()[i].tangent = 0;
    }
  for (std::uint64_t direction = 0; direction < 6; ++direction) {
    got.push_back(0);
    for (std::size_t i = 0; i < dual.flat.size(); ++i) {
      if (i >= memory_begin && i < memory_end) continue;
      dual.flat[i].tangent = Random{50 + direction}.normal(i);
      got.back() += gradient.flat[i] * dual.flat[i].tangent;
    }
    for (std::size_t n = 0; n < dual_x.size(); ++n)
      for (Index i = 0; i < dual_x[n].size(); ++i) {
        dual_x[n].data()[i].tangent = Random{70 + direction, n}.normal(static_cast<std::uint64_t>(i));
        got.back() += d_x[n].data()[i] * dual_x[n].data()[i].tangent;
      }
    measure();
  }
  Shape<1> const shape{static_cast<Index>(got.size())};
  CHECK_CLOSE(
      verify::compare_scaled(View<double const, 1>{got.data(), shape}, View<double const, 1>{expected.data(), shape}, 1e-12));
}

}  // namespace

TEST_CASE("mixture: with every router the gradient is that of dual numbers, losses, z-loss and full experts included") {
  for (auto const name : Routers::names())
    for (Index k : {1, 2})
      for (double capacity : {0.0, 0.5}) {
        Dims const d =
            sizes(name, k, {.capacity_factor = capacity, .z_coefficient = 0.05, .balance = 0.5, .groups = 3, .groups_kept = 2});
        check<SwiGlu>(d, 1, k == 1 ? Keep::activations : Keep::inputs);
      }
}

TEST_CASE("mixture: so it is with losses over sequences of a packed row, and over what two passes of a step have seen") {
  for (auto const name : {"switch", "group"})
    for (auto const scope : {BalanceScope::sequence, BalanceScope::global})
      for (double capacity : {0.0, 0.5}) {
        Dims const d = sizes(name, 2, {.capacity_factor = capacity, .balance = 0.5, .scope = scope, .groups = 3, .groups_kept = 2});
        check<SwiGlu>(d, 1, Keep::activations);
        check<SwiGlu>(d, 2, Keep::inputs);
      }
}

TEST_CASE("mixture: so it is with weights as they are, shared experts, and over two passes of routers with memory") {
  for (auto const name : Routers::names()) {
    Dims d = sizes(name, 3, {.normalise = false, .z_coefficient = 0.05, .balance = 0.5});
    d.shared = 2;
    check<Gelu>(d, 2, Keep::activations);
  }
}
