#include <blackmamba/layers/routers/top_k_softmax.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Every alternative of the published configuration once, with sizes that fit no vector and a number of experts of its own.
template <class E>
struct AllKinds {
  using Net = PublishedMixture<Top1Sigmoid, E>;
  static MixedDims dims(bool bias, bool tied) {
    MixedDims out;
    static_cast<Dims&>(out) =
        Dims{.vocab = 37, .d_model = 20, .d_state = 5, .d_conv = 3, .d_ffn = 11, .linear_bias = bias, .tied = tied};
    out.output_bias = bias;
    Index experts = 2;
    for (Alternative kind : {Alternative::mamba, Alternative::mixture, Alternative::mlp, Alternative::mamba_and_mixture,
                             Alternative::mamba_and_mlp, Alternative::mixture}) {
      Dims d = out;
      bool const mixture = kind == Alternative::mixture || kind == Alternative::mamba_and_mixture;
      d.n_experts = mixture ? experts++ : 0;
      out.layers.push_back({static_cast<std::size_t>(kind), d});
    }
    return out;
  }
};

Tensor<Token, 2> random_tokens(Index B, Index L, Index vocab, std::uint64_t seed = 7) {
  Tensor<Token, 2> out{Shape<2>{B, L}};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<Token>(Random{seed}.below(static_cast<std::uint64_t>(i), vocab));
  return out;
}

/// Weights far from their gentle initialisation, so that every path matters: biases too.
template <class M>
void scramble(M& model) {
  auto const flat = model.flat();
  for (Index i = 0; i < flat.size(); ++i)
    flat(i) = static_cast<typename M::scalar>(
        static_cast<accumulator_t<typename M::scalar>>(0.3 * Random{3}.normal(static_cast<std::uint64_t>(i))));
}

template <class M>
auto forward(M const& model, View<Token const, 2> tokens, typename M::Options const& options = {}) {
  Tensor<typename M::scalar, 3> logits{Shape<3>{tokens.extent(0), tokens.extent(1), model.dims().vocab}};
  model.forward(tokens, logits, options);
  return logits;
}

template <class M>
auto by_steps(M const& model, View<Token const, 2> tokens, typename M::State& state, Index from = 0) {
  Index const B = tokens.extent(0), L = tokens.extent(1), V = model.dims().vocab;
  Tensor<typename M::scalar, 3> logits{Shape<3>{B, L, V}};
  Tensor<typename M::scalar, 2> row{Shape<2>{B, V}};
  for (Index t = from; t < L; ++t) {
    auto const column = converted<Token>(tokens.slice(1, t, 1));
    model.step(column.view().reshaped(Shape<1>{B}), row, state);
    for (Index b = 0; b < B; ++b)
      for (Index v = 0; v < V; ++v) logits(b, t, v) = row(b, v);
  }
  return logits;
}

/// The deepest chain of the small networks here: six blocks whose products have at most 40 terms.
constexpr verify::Cost cost{.terms = 6 * 40, .roundings = 6};

}  // namespace

TEST_CASE_TEMPLATE("model: steps, chunks, packing and both contexts agree for every kind of layer, with and without biases", E,
                   GeGlu, SwiGlu, Gelu) {
  using Net = typename AllKinds<E>::Net;
  for (bool bias : {false, true})
    for (bool tied : {false, true}) {
      INFO("bias ", bias, ", tied ", tied);
      auto const dims = AllKinds<E>::dims(bias, tied);
      Model<Net, double, Reference> reference{dims};
      Model<Net, double, Cpu> fast{dims, Cpu{2}};
      scramble(reference), scramble(fast);
      auto const tokens = random_tokens(3, 13, dims.vocab);
      auto const whole = forward(reference, tokens);
      CHECK_CLOSE(verify::compare(forward(fast, tokens).view(), whole.view(), cost));

      auto state = fast.make_state(3);
      CHECK_CLOSE(verify::compare(by_steps(fast, tokens, state).view(), whole.view(), cost));

      auto prefilled = reference.make_state(3);
      auto const head = converted<Token>(tokens.view().slice(1, 0, 6));
      forward(reference, head, {.state = &prefilled});
      auto const tail = by_steps(reference, tokens, prefilled, 6);
      for (Index b = 0; b < 3; ++b)
        CHECK_CLOSE(verify::compare(tail.view()[b].slice(0, 6, 7), View<double const, 2>{whole.view()[b].slice(0, 6, 7)}, cost));

      // Three sequences of 13, 0 and 26 tokens in one row: the third is the first two rows of the batch run together.
      Tensor<Index, 1> offsets{Shape<1>{4}};
      offsets(0) = 0, offsets(1) = 13, offsets(2) = 13, offsets(3) = 39;
      View<Token const, 2> const row{tokens.data(), Shape<2>{1, 39}};
      auto const packed = forward(fast, row, {.offsets = offsets});
      auto const alone = forward(reference, View<Token const, 2>{tokens.data() + 13, Shape<2>{1, 26}});
      CHECK_CLOSE(verify::compare(packed.view()[0].slice(0, 0, 13), View<double const, 2>{whole.view()[0]}, cost));
      CHECK_CLOSE(verify::compare(packed.view()[0].slice(0, 13, 26), View<double const, 2>{alone.view()[0]}, cost));
    }
}

TEST_CASE("model: packed sequences leave each its own state") {
  Model<BlackMamba<>, double, Cpu> model{Dims{.vocab = 31, .d_model = 12, .d_ffn = 8, .n_experts = 3, .depth = 2}};
  scramble(model);
  auto const tokens = random_tokens(1, 11, 31);
  Tensor<Index, 1> offsets{Shape<1>{3}};
  offsets(1) = 4, offsets(2) = 11;
  auto both = model.make_state(2), second = model.make_state(1);
  forward(model, tokens, {.state = &both, .offsets = offsets});
  auto const tail = converted<Token>(tokens.view().slice(1, 4, 7));
  forward(model, tail, {.state = &second});
  Tensor<Token, 1> next{Shape<1>{2}}, one{Shape<1>{1}};
  Tensor<double, 2> logits{Shape<2>{2, 31}}, expected{Shape<2>{1, 31}};
  model.step(next, logits, both);
  model.step(one, expected, second);
  CHECK_CLOSE(verify::compare(logits.view().slice(0, 1, 1), expected.view(), cost));
}

TEST_CASE("model: a dual number through the whole network is the derivative of its logits") {
  using Net = BlackMamba<TopKSoftmax, SwiGlu>;
  Dims const dims{.vocab = 17, .d_model = 10, .d_state = 3, .d_conv = 2, .d_ffn = 6, .n_experts = 3, .top_k = 2, .depth = 1};
  auto const tokens = random_tokens(1, 5, 17);
  Model<Net, Dual<double>, Reference> dual{dims};
  Model<Net, double, Reference> plain{dims};
  scramble(plain);
  Random const direction{9};
  for (Index i = 0; i < plain.flat().size(); ++i)
    dual.flat()(i) = {plain.flat()(i), 0.125 * direction.normal(static_cast<std::uint64_t>(i))};
  auto const derivative = forward(dual, tokens);
  auto const here = forward(plain, tokens);

  // Central differences in long double, with one step of Richardson's extrapolation: an error of h^4 = 2^-48 times the fifth
  // derivative over 480, which the short direction keeps small beside the rounding of a double.
  auto const moved = [&](long double by) {
    Model<Net, long double, Reference> model{dims};
    for (Index i = 0; i < model.flat().size(); ++i) model.flat()(i) = plain.flat()(i) + by * dual.flat()(i).tangent;
    return forward(model, tokens);
  };
  long double const h = 0x1p-12L;
  auto const ahead = moved(h), behind = moved(-h), half_ahead = moved(h / 2), half_behind = moved(-h / 2);
  Tensor<double, 3> got{here.shape()}, expected{here.shape()};
  double largest = 0;
  for (Index i = 0; i < here.size(); ++i) {
    CHECK(derivative.data()[i].value == here.data()[i]);
    long double const wide = (ahead.data()[i] - behind.data()[i]) / (2 * h);
    long double const narrow = (half_ahead.data()[i] - half_behind.data()[i]) / h;
    expected.data()[i] = static_cast<double>((4 * narrow - wide) / 3);
    got.data()[i] = derivative.data()[i].tangent;
    largest = std::max(largest, std::fabs(expected.data()[i]));
  }
  CHECK(largest > 0.1);
  CHECK_CLOSE(verify::compare(got.view(), expected.view(), cost));
}

TEST_CASE("model: after one pass nothing is allocated") {
  Model<BlackMamba<>, float, Cpu> model{blackmamba_tiny, Cpu{2}};
  model.initialise(1);
  auto const tokens = random_tokens(2, 33, 256);
  auto state = model.make_state(2);
  Tensor<float, 3> logits{Shape<3>{2, 33, 256}};
  Tensor<float, 2> row{Shape<2>{2, 256}};
  Tensor<Token, 1> next{Shape<1>{2}};
  model.forward(tokens, logits, {.state = &state});
  model.step(next, row, state);
  model.ctx().scratch().seal();
  model.forward(tokens, logits, {.state = &state});
  model.step(next, row, state);
  CHECK(model.ctx().scratch().in_use() == 0);
}

TEST_CASE("model: no tokens, no sequences: nothing happens, and a state stays as it was") {
  Model<BlackMamba<>, float, Cpu> model{blackmamba_tiny};
  model.initialise(1);
  auto state = model.make_state(2);
  auto const tokens = random_tokens(2, 5, 256);
  forward(model, tokens, {.state = &state});
  Tensor<float, 2> before{Shape<2>{2, 256}}, after{Shape<2>{2, 256}};
  auto copy = model.make_state(2);
  forward(model, tokens, {.state = &copy});
  forward(model, random_tokens(2, 0, 256), {.state = &state});
  Tensor<Token, 1> next{Shape<1>{2}};
  model.step(next, before, copy);
  model.step(next, after, state);
  for (Index i = 0; i < before.size(); ++i) CHECK(before.data()[i] == after.data()[i]);
  auto none = model.make_state(0);
  CHECK(forward(model, random_tokens(0, 5, 256), {.state = &none}).size() == 0);
}

TEST_CASE("model: the same seed gives the same weights, another seed gives others") {
  Model<BlackMamba<>, float, Cpu> a{blackmamba_tiny}, b{blackmamba_tiny}, c{blackmamba_tiny};
  a.initialise(1), b.initialise(1), c.initialise(2);
  Index differ = 0;
  for (Index i = 0; i < a.flat().size(); ++i) {
    CHECK(a.flat()(i) == b.flat()(i));
    differ += a.flat()(i) != c.flat()(i);
  }
  CHECK(differ > a.flat().size() / 2);
}

TEST_CASE("model: what cannot be is refused with its numbers") {
  using M = Model<BlackMamba<>, float, Cpu>;
  CHECK_THROWS_WITH_AS(M{Dims{}}, "dims: vocab is 0, not at least 1", value_error);
  CHECK_THROWS_WITH_AS((M{Dims{.vocab = 4, .d_model = 4, .d_ffn = 4, .n_experts = 2, .top_k = 3}}),
                       "dims: top_k is 3, outside 1 to n_experts 2", value_error);
  M model{blackmamba_tiny};
  auto tokens = random_tokens(1, 3, 256);
  Tensor<float, 3> logits{Shape<3>{1, 2, 256}};
  CHECK_THROWS_WITH_AS(model.forward(tokens, logits),
                       "model: logits has shape (1, 2, 256), tokens asks for (1, 3, 256): extent 1 is 2, not 3", shape_error);
  auto state = model.make_state(2);
  Tensor<float, 3> right{Shape<3>{1, 3, 256}};
  CHECK_THROWS_WITH_AS(model.forward(tokens, right, {.state = &state}), "model: a state of 2 sequences cannot serve 1",
                       value_error);
  tokens(0, 1) = 256;
  CHECK_THROWS_AS(model.forward(tokens, right), value_error);
}
