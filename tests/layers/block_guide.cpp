// The mixer of docs/guide/write_a_block.md, held to what the guide says of it. The guide shows what stands between the marks.

// [guide]
#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>

namespace mine {

using namespace blackmamba;

/// y = out(silu(conv(in(x)))): each token sees itself and the d_conv - 1 before it. Sizes: d_model, d_inner, d_conv.
struct ShortConv {
  static constexpr char const* name = "ShortConv";

  template <class T>
  struct Params {
    View<T, 2> in{}, conv{}, out{};  // (d_inner, d_model), (d_inner, d_conv), (d_model, d_inner)
  };
  template <class T>
  struct State {
    View<T, 3> conv{};  // (B, d_conv - 1, d_inner): the last inputs of the convolution
  };
  template <class T>
  struct Saved {
    View<T, 3> u{}, v{};  // (B, L, d_inner): what the convolution reads and what it writes
  };

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    visit("in_proj.weight", p.in, Shape<2>{d.inner(), d.d_model}, Init::linear, Decay::yes);
    visit("conv1d.weight", p.conv, Shape<2>{d.inner(), d.d_conv}, Init::linear, Decay::yes);
    visit("out_proj.weight", p.out, Shape<2>{d.d_model, d.inner()}, Init::residual, Decay::yes);
  }
  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    visit(s.conv, Shape<3>{batch, d.d_conv - 1, d.inner()});
  }
  static constexpr Index flops_per_token(Dims const& d) { return 2 * d.inner() * (2 * d.d_model + d.d_conv); }

  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y,
                      State<T> const* state, Saved<T>* saved = nullptr) {
    auto const scope = pass.ctx.scratch().scope();
    bool const keeps = saved && pass.keep == Keep::activations;
    auto const s = inner(pass, d, p, x, keeps ? *pass.tape : pass.ctx.scratch(), state);
    if (keeps) *saved = s;
    linear(pass.ctx, LinearArgs<T>{.x = s.v.rows(), .weight = p.out, .y = y.rows()});
  }

  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y, State<T> const& s) {
    Shape<3> const one{x.extent(0), 1, x.extent(1)};
    forward(pass, d, p, x.reshaped(one), y.reshaped(one), &s);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved, Input<T, 3> x, Input<T, 3> d_y,
                       Output<T, 3> d_x, Params<accumulator_t<T>> const& g) {
    auto const scope = pass.ctx.scratch().scope();
    Arena& scratch = pass.ctx.scratch();
    Saved<T> const s = pass.keep == Keep::activations ? saved : inner(pass, d, p, x, scratch);
    auto const d_u = scratch.take<T>(s.u.shape()), d_v = scratch.take<T>(s.v.shape());
    linear_backward(pass.ctx, LinearBackwardArgs<T>{s.v.rows(), p.out, d_y.rows(), d_v.rows(), g.out});
    causal_conv1d_backward(pass.ctx,
                           CausalConv1dBackwardArgs<T>{
                               .x = s.u, .weight = p.conv, .offsets = pass.offsets, .d_y = d_v, .d_x = d_u, .d_weight = g.conv});
    linear_backward(pass.ctx, LinearBackwardArgs<T>{x.rows(), p.in, d_u.rows(), d_x.rows(), g.in});
  }

 private:
  template <class Ctx, Scalar T>
  static Saved<T> inner(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Arena& arena,
                        State<T> const* state = nullptr) {
    Shape<3> const shape{x.extent(0), x.extent(1), d.inner()};
    Saved<T> const s{.u = arena.take<T>(shape), .v = arena.take<T>(shape)};
    linear(pass.ctx, LinearArgs<T>{.x = x.rows(), .weight = p.in, .y = s.u.rows()});
    CausalConv1dArgs<T> conv{.x = s.u, .weight = p.conv, .offsets = pass.offsets, .y = s.v};
    if (state) conv.initial_state = conv.last_state = state->conv;
    causal_conv1d(pass.ctx, conv);
    return s;
  }
};

}  // namespace mine
// [guide]

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/residual.hpp>
#include <blackmamba/model/count.hpp>
#include <blackmamba/model/gradients.hpp>

#include "support/gradients.hpp"

using namespace blackmamba;

namespace {

using Block = Residual<RmsNorm, mine::ShortConv>;
using Net = Stack<Repeat<Block, Residual<RmsNorm, Mlp<SwiGlu>>>, RmsNorm>;

constexpr Dims small{.vocab = 7, .d_model = 5, .d_conv = 3, .d_inner = 6, .d_ffn = 4, .depth = 2};
constexpr Dims wide{.vocab = 67, .d_model = 34, .d_inner = 67, .d_ffn = 37, .depth = 2};

std::string read(std::filesystem::path const& path) {
  std::ifstream file{path};
  return {std::istreambuf_iterator<char>{file}, {}};
}

Tensor<double, 1> random_weights(Dims const& dims) {
  return test::random_tensor<double>(Model<Net, double, Reference>{dims}.flat().shape(), 3, 0.4);
}

template <class T, class Ctx>
Model<Net, T, Ctx> model_of(Dims const& dims, Tensor<T, 1> const& weights, Ctx const& ctx = {}) {
  Model<Net, T, Ctx> model{dims, ctx};
  std::copy(weights.begin(), weights.end(), model.flat().data());
  return model;
}

Tensor<Token, 2> random_tokens(Shape<2> shape, Dims const& dims, std::uint64_t seed) {
  Tensor<Token, 2> out{shape};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] = static_cast<Token>(Random{seed}.below(static_cast<std::uint64_t>(i), dims.vocab));
  return out;
}

/// Positions at which the sequences of a packed row of 11 begin: 4, 0 and 7 tokens.
Tensor<Index, 1> three_sequences() {
  Tensor<Index, 1> offsets{Shape<1>{4}};
  offsets(1) = offsets(2) = 4, offsets(3) = 11;
  return offsets;
}

template <class T, class Ctx>
Tensor<T, 3> logits(Model<Net, T, Ctx> const& model, View<Token const, 2> tokens, View<Index const, 1> offsets = {}) {
  Tensor<T, 3> out{Shape<3>{tokens.extent(0), tokens.extent(1), model.dims().vocab}};
  model.forward(tokens, out, {.offsets = offsets});
  return out;
}

/// What the network computes in T on the context, and how its gradient looks.
template <class T, class Ctx>
struct Result {
  Tensor<T, 3> logits;
  Tensor<accumulator_t<T>, 1> gradient;
  Result(Ctx const& ctx, Keep keep) {
    auto const model = model_of<T>(wide, converted<T>(random_weights(wide)), ctx);
    auto const tokens = random_tokens(Shape{3, 19}, wide, 1), targets = random_tokens(Shape{3, 19}, wide, 2);
    logits = ::logits(model, tokens);
    Gradients<Net, T, Ctx> gradients{model, keep};
    gradients.add(tokens, targets);
    gradient = Tensor<accumulator_t<T>, 1>{gradients.flat().shape()};
    std::copy(gradients.flat().data(), gradients.flat().data() + gradient.size(), gradient.begin());
  }
};

bool same_bits(auto const& a, auto const& b) {
  return a.size() > 0 && a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof *a.data()) == 0;
}

}  // namespace

TEST_CASE("the guide's mixer: is one, can learn, and the guide shows it in at most 80 lines") {
  static_assert(Mixer<mine::ShortConv> && require_backward<mine::ShortConv>());
  static_assert(count_parameters<Net>(small).total == 7 * 5 + 2 * (5 + 6 * 5 + 6 * 3 + 5 * 6 + 5 + 8 * 5 + 5 * 4) + 5);
  auto const here = std::filesystem::path{__FILE__};
  std::string const source = read(here), guide = read(here.parent_path() / "../../docs/guide/write_a_block.md");
  std::string const mark = "// [guide]\n";
  auto const begin = source.find(mark) + mark.size(), end = source.find(mark, begin);
  REQUIRE(end != std::string::npos);
  std::string const text = source.substr(begin, end - begin);
  CHECK(std::count(text.begin(), text.end(), '\n') <= 80);
  CHECK_MESSAGE(guide.find("```cpp\n" + text + "```\n") != std::string::npos,
                "docs/guide/write_a_block.md does not hold what stands between the marks of this file");
}

TEST_CASE("the guide's mixer: steps and packed sequences are the forward pass") {
  auto const weights = random_weights(small);
  auto const model = model_of<double>(small, weights, Cpu{2});
  auto const tokens = random_tokens(Shape{1, 11}, small, 1);
  constexpr verify::Cost cost{.terms = 4 * 18};  // four blocks, whose products have at most 5 + 3 + 6 terms
  auto const whole = logits(model_of<double>(small, weights, Reference{}), tokens);
  CHECK_CLOSE(verify::compare(logits(model, tokens).view(), whole.view(), cost));

  auto state = model.make_state(1);
  Tensor<double, 3> stepped{whole.shape()};
  for (Index t = 0; t < 11; ++t) model.step(tokens.view()[0].slice(0, t, 1), stepped.view()[0].slice(0, t, 1), state);
  CHECK_CLOSE(verify::compare(stepped.view(), whole.view(), cost));

  auto const packed = logits(model, tokens, three_sequences());
  auto const last = logits(model, converted<Token>(tokens.view().slice(1, 4, 7)));
  CHECK_CLOSE(verify::compare(packed.view()[0].slice(0, 0, 4), View<double const, 2>{whole.view()[0].slice(0, 0, 4)}, cost));
  CHECK_CLOSE(verify::compare(packed.view()[0].slice(0, 4, 7), View<double const, 2>{last.view()[0]}, cost));
}

TEST_CASE("the guide's mixer: in a network its gradients are those of dual numbers") {
  auto const tokens = random_tokens(Shape{1, 11}, small, 1), targets = random_tokens(Shape{1, 11}, small, 2);
  auto const weights = random_weights(small);
  auto const three = three_sequences();
  for (bool packed : {false, true}) {
    INFO("packed ", packed);
    View<Index const, 1> const offsets = packed ? View<Index const, 1>{three.view()} : View<Index const, 1>{};
    auto const model = model_of<double>(small, weights, Reference{});
    Gradients<Net, double, Reference> gradients{model};
    gradients.add(tokens, targets, {.offsets = offsets});
    Tensor<double, 1> gradient{weights.shape()};
    std::copy(gradients.flat().data(), gradients.flat().data() + gradient.size(), gradient.begin());
    auto const loss = [&](Tensor<Dual<double>, 1> const& w) {
      auto const y = logits(model_of<Dual<double>>(small, w, Reference{}), tokens, offsets);
      Tensor<Dual<double>, 1> losses{Shape<1>{11}};
      cross_entropy(Reference{},
                    CrossEntropyArgs<Dual<double>>{.logits = y.view()[0], .targets = targets.view()[0], .losses = losses});
      Dual<double> sum{0};
      for (auto const& each : losses) sum += each;
      return sum / Dual<double>{11};
    };
    test::check_gradients(loss, test::Gradient{"weights", weights, gradient});
  }
}

TEST_CASE_TEMPLATE("the guide's mixer: the same bits on any number of threads, whatever is kept", T, float, double, half, bf16) {
  Result<T, Cpu> const one{Cpu{1}, Keep::activations}, two{Cpu{2}, Keep::activations}, again{Cpu{2}, Keep::inputs};
  CHECK(same_bits(one.logits, two.logits));
  CHECK(same_bits(one.gradient, two.gradient));
  CHECK(same_bits(one.gradient, again.gradient));
}
