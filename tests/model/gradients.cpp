#include <blackmamba/layers/mamba2.hpp>
#include <blackmamba/layers/routers/sinkhorn.hpp>
#include <blackmamba/layers/routers/top_k_softmax.hpp>
#include <blackmamba/model/gradients.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

using Block = Residual<RmsNorm, Mamba>;
using Published = BlackMamba<>;
using Parallel = Stack<Repeat<ParallelResidual<RmsNorm, Mamba, MoE<TopKSoftmax, SwiGlu>>>>;
using Dense = Stack<Repeat<ParallelResidual<RmsNorm, Mamba, Mlp<SquaredRelu>>, Residual<RmsNorm, Mlp<ReGlu>>>>;
using Second = Stack<Repeat<Residual<RmsNorm, Mamba2>>, RmsNorm>;
using Shared = Stack<Repeat<Block, Residual<LayerNorm, MoE<TopKSoftmax, Gelu>>>, RmsNorm>;

constexpr Dims small{.vocab = 11, .d_model = 6, .d_state = 3, .d_conv = 3, .dt_rank = 2, .d_ffn = 5, .n_experts = 3, .depth = 1};

constexpr Dims with(auto&& change) {
  Dims d = small;
  change(d);
  return d;
}
constexpr Dims two_experts = with([](Dims& d) { d.top_k = 2, d.depth = 2, d.tied = false; });
constexpr Dims biases = with([](Dims& d) { d.linear_bias = d.output_bias = true; });
constexpr Dims heads = with([](Dims& d) { d.head_dim = 4, d.n_groups = 3, d.depth = 2, d.dt_low = 0.001, d.dt_high = 2; });
constexpr Dims shared_experts = with([](Dims& d) { d.shared = 2, d.top_k = 2, d.router.normalise = false, d.linear_bias = true; });

/// Tokens, targets with a few that do not count, and where the sequences of the packed row begin.
struct Batch {
  Tensor<Token, 2> tokens, targets;
  Tensor<Index, 1> offsets;
  bool packed = false;

  View<Index const, 1> packing() const { return packed ? View<Index const, 1>{offsets.view()} : View<Index const, 1>{}; }
};
Batch batch(Index sequences, Index length, Index vocab, bool packed) {
  Batch b{Tensor<Token, 2>{Shape<2>{sequences, length}}, Tensor<Token, 2>{Shape<2>{sequences, length}}, {}, false};
  Random const random{5};
  for (Index i = 0; i < b.tokens.size(); ++i) {
    auto const at = static_cast<std::uint64_t>(i);
    b.tokens.data()[i] = static_cast<Token>(random.split(1).uniform(at) * static_cast<double>(vocab));
    b.targets.data()[i] = i % 5 == 3 ? -100 : static_cast<Token>(random.split(2).uniform(at) * static_cast<double>(vocab));
  }
  if (packed) {
    b.offsets = Tensor<Index, 1>{Shape<1>{4}}, b.packed = true;
    b.offsets(1) = length / 3, b.offsets(2) = length / 3, b.offsets(3) = length;
  }
  return b;
}

template <class Net, class T, class Ctx>
Model<Net, T, Ctx> model_of(Dims const& dims, Ctx const& ctx = {}) {
  Model<Net, T, Ctx> model{dims, ctx};
  Model<Net, double, Reference> drawn{dims};
  drawn.initialise(3);
  // Initial routers hardly tell experts apart and initial biases are 0: both move, so that no term of a gradient vanishes.
  for (Index i = 0; i < model.flat().size(); ++i)
    model.flat()[i] =
        static_cast<T>(static_cast<accumulator_t<T>>(drawn.flat()[i] + 0.1 * Random{9}.normal(static_cast<std::uint64_t>(i))));
  return model;
}

/// The mean loss through the plain forward pass.
template <class Net, class T>
T loss(Model<Net, T, Reference> const& model, Batch const& b, double z_coefficient) {
  Tensor<T, 3> logits{Shape<3>{b.tokens.extent(0), b.tokens.extent(1), model.dims().vocab}};
  model.forward(b.tokens, logits, {.offsets = b.packing(), .mode = Mode::training});
  Tensor<T, 1> losses{Shape<1>{b.targets.size()}};
  View<T, 3> const view = logits;
  cross_entropy(Reference{}, CrossEntropyArgs<T>{.logits = view.rows(),
                                                 .targets = b.targets.view().reshaped(Shape<1>{b.targets.size()}),
                                                 .z_coefficient = z_coefficient,
                                                 .losses = losses});
  T sum{0};
  double valid = 0;
  for (Index i = 0; i < losses.size(); ++i) sum += losses(i), valid += b.targets.data()[i] >= 0;
  return sum / T{valid};
}

/// Along random directions in all parameters at once, and along every 7th coordinate.
template <class Net>
void check_against_dual_numbers(Dims const& dims, Batch const& b) {
  auto const model = model_of<Net, double, Reference>(dims);
  Gradients<Net, double, Reference> gradients{model};
  GradientOptions const options{.offsets = b.packing(), .z_coefficient = 0.01};
  auto const report = gradients.add(b.tokens, b.targets, options);
  CHECK(std::fabs(report.loss() - loss(model, b, options.z_coefficient)) <= 1e-14);

  auto dual = model_of<Net, Dual<double>, Reference>(dims);
  std::vector<double> got, expected;
  auto const measure = [&] { expected.push_back(loss(dual, b, options.z_coefficient).tangent); };
  for (Index i = 0; i < dual.flat().size(); i += 7) {
    dual.flat()[i].tangent = 1;
    got.push_back(gradients.flat()[i]);
    measure();
    dual.flat()[i].tangent = 0;
  }
  for (std::uint64_t direction = 0; direction < 8; ++direction) {
    got.push_back(0);
    for (Index i = 0; i < dual.flat().size(); ++i) {
      dual.flat()[i].tangent = 0.1 * Random{50 + direction}.normal(static_cast<std::uint64_t>(i));
      got.back() += gradients.flat()[i] * dual.flat()[i].tangent;
    }
    measure();
  }
  Shape<1> const shape{static_cast<Index>(got.size())};
  CHECK_CLOSE(
      verify::compare_scaled(View<double const, 1>{got.data(), shape}, View<double const, 1>{expected.data(), shape}, 1e-12));
}

template <class Net>
void check_network(Dims const& dims) {
  check_against_dual_numbers<Net>(dims, batch(2, 7, dims.vocab, false));
  check_against_dual_numbers<Net>(dims, batch(1, 13, dims.vocab, true));
}

template <class Net, class T, class Ctx>
Tensor<accumulator_t<T>, 1> gradient(Dims const& dims, Ctx const& ctx, Batch const& b, Keep keep, int passes = 1) {
  auto const model = model_of<Net, T, Ctx>(dims, ctx);
  Gradients<Net, T, Ctx> gradients{model, keep};
  gradients.begin_step();
  for (int i = 0; i < passes; ++i) gradients.add(b.tokens, b.targets, {.offsets = b.packing()});
  Tensor<accumulator_t<T>, 1> out{gradients.flat().shape()};
  std::copy(gradients.flat().data(), gradients.flat().data() + out.size(), out.begin());
  return out;
}

template <class A>
bool same_bits(Tensor<A, 1> const& a, Tensor<A, 1> const& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace

TEST_CASE("gradients: of BlackMamba they are the derivative of the forward pass") { check_network<Published>(small); }
TEST_CASE("gradients: so they are with parallel branches and two experts a token") { check_network<Parallel>(two_experts); }
TEST_CASE("gradients: so they are of dense MLPs with biases everywhere") { check_network<Dense>(biases); }
TEST_CASE("gradients: so they are of Mamba-2 with heads, groups and clamped steps") { check_network<Second>(heads); }
TEST_CASE("gradients: so they are with shared experts, other norms and plain units") { check_network<Shared>(shared_experts); }

TEST_CASE_TEMPLATE("gradients: the fast path agrees with the reference, whatever is kept, on any number of threads", T, float,
                   double) {
  Dims const dims = with([](Dims& d) { d.vocab = 67, d.d_model = 34, d.d_state = 16, d.d_ffn = 37, d.top_k = 2, d.depth = 2; });
  auto const b = batch(3, 19, dims.vocab, false);
  auto const expected = gradient<Parallel, double>(dims, Reference{}, b, Keep::activations);
  auto const one = gradient<Parallel, T>(dims, Cpu{1}, b, Keep::activations);
  // Through two layers of a network errors are those of its longest sums, many times over.
  double const bound = 1000 * static_cast<double>(std::numeric_limits<T>::epsilon());
  CHECK_CLOSE(verify::compare_scaled(one.view(), expected.view(), bound));
  CHECK(same_bits(one, gradient<Parallel, T>(dims, Cpu{2}, b, Keep::activations)));
  CHECK(same_bits(one, gradient<Parallel, T>(dims, Cpu{2}, b, Keep::inputs)));
}

TEST_CASE("gradients: a packed row has the gradient of its sequences apart") {
  Dims const dims = with([](Dims& d) { d.depth = 2; });
  auto const separate = batch(3, 9, dims.vocab, false);
  Batch packed{Tensor<Token, 2>{Shape<2>{1, 27}}, Tensor<Token, 2>{Shape<2>{1, 27}}, Tensor<Index, 1>{Shape<1>{4}}, true};
  std::copy(separate.tokens.begin(), separate.tokens.end(), packed.tokens.begin());
  std::copy(separate.targets.begin(), separate.targets.end(), packed.targets.begin());
  for (Index s = 0; s < 4; ++s) packed.offsets(s) = 9 * s;
  CHECK_CLOSE(verify::compare_scaled(gradient<Published, double>(dims, Cpu{2}, packed, Keep::inputs).view(),
                                     gradient<Published, double>(dims, Cpu{2}, separate, Keep::inputs).view(), 1e-13));
}

TEST_CASE("gradients: passes of a step add up, and a new step begins at zero") {
  auto const b = batch(2, 6, small.vocab, false);
  auto const once = gradient<Published, double>(small, Cpu{1}, b, Keep::activations);
  auto const thrice = gradient<Published, double>(small, Cpu{1}, b, Keep::activations, 3);
  Tensor<double, 1> sum{once.shape()};
  for (Index i = 0; i < sum.size(); ++i) sum(i) = 3 * once(i);
  CHECK_CLOSE(verify::compare_scaled(thrice.view(), sum.view(), 1e-14));

  auto const model = model_of<Published, double, Cpu>(small);
  Gradients<Published, double, Cpu> gradients{model};
  for (int i = 0; i < 2; ++i) {
    gradients.begin_step();
    gradients.add(b.tokens, b.targets);
    CHECK(std::equal(once.begin(), once.end(), gradients.flat().data()));
  }
}

TEST_CASE("gradients: after the first pass nothing is allocated") {
  auto const b = batch(2, 21, small.vocab, false);
  for (Keep const keep : {Keep::activations, Keep::inputs}) {
    auto const model = model_of<Shared, float, Cpu>(shared_experts);
    Gradients<Shared, float, Cpu> gradients{model, keep};
    gradients.add(b.tokens, b.targets);
    gradients.tape().seal(), model.ctx().scratch().seal();
    auto const taken = gradients.tape().capacity() + model.ctx().scratch().capacity();
    CHECK_NOTHROW(gradients.add(b.tokens, b.targets));
    CHECK(gradients.tape().capacity() + model.ctx().scratch().capacity() == taken);
  }
}

TEST_CASE("gradients: keeping only inputs takes less memory") {
  auto const b = batch(4, 64, small.vocab, false);
  auto const tape = [&](Keep keep) {
    auto const model = model_of<Published, float, Cpu>(with([](Dims& d) { d.depth = 4; }));
    Gradients<Published, float, Cpu> gradients{model, keep};
    gradients.add(b.tokens, b.targets);
    return gradients.tape().peak();
  };
  CHECK(2 * tape(Keep::inputs) < tape(Keep::activations));
}

TEST_CASE_TEMPLATE("gradients: half-precision weights have float gradients near the exact ones", T, bf16, half) {
  auto const b = batch(2, 15, small.vocab, false);
  auto const rounded = model_of<Published, T, Cpu>(small);
  auto const exact = model_of<Published, double, Reference>(small);
  for (Index i = 0; i < exact.flat().size(); ++i) exact.flat()[i] = static_cast<double>(widen(rounded.flat()[i]));
  Gradients<Published, double, Reference> expected{exact};
  expected.add(b.tokens, b.targets);
  // Between the loss and a weight of the first block lie some 16 tensors that are stored in T, each rounded by half an epsilon.
  double const bound = 8 * std::ldexp(1.0, std::is_same_v<T, bf16> ? -7 : -10);
  CHECK_CLOSE(verify::compare_scaled(gradient<Published, T>(small, Cpu{2}, b, Keep::inputs).view(),
                                     View<double const, 1>{expected.flat()}, bound));
}

TEST_CASE("gradients: nothing to learn from is a loss of 0 and no gradient") {
  auto b = batch(2, 4, small.vocab, false);
  std::fill(b.targets.begin(), b.targets.end(), -100);
  auto const model = model_of<Published, double, Cpu>(small);
  Gradients<Published, double, Cpu> gradients{model};
  auto const report = gradients.add(b.tokens, b.targets);
  CHECK(report.targets == 0);
  CHECK(report.loss() == 0);
  for (Index i = 0; i < gradients.flat().size(); ++i) CHECK(gradients.flat()[i] == 0);
}

TEST_CASE("gradients: targets of another shape, and targets that are no tokens, are refused with their values") {
  auto const model = model_of<Published, double, Cpu>(small);
  Gradients<Published, double, Cpu> gradients{model};
  auto b = batch(2, 4, small.vocab, false);
  CHECK_THROWS_WITH_AS(gradients.add(b.tokens, batch(2, 5, small.vocab, false).targets),
                       "gradients: targets has shape (2, 5), tokens asks for (2, 4): extent 1 is 5, not 4", shape_error);
  b.targets(1, 0) = 11;
  CHECK_THROWS_WITH_AS(gradients.add(b.tokens, b.targets), doctest::Contains("targets(4) is 11"), value_error);
}
