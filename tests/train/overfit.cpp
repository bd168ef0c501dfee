// A tiny BlackMamba learns 64 sequences by heart with every router, and with every kind of expert; and routers that balance do so
// where plain top-1 collapses.
//
// Each sequence begins with a token of its own, so all others are certain to who has learnt them: a loss of zero can be had.

#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include <blackmamba/model/networks.hpp>
#include <blackmamba/train/trainer.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

using Net = BlackMamba<ConfiguredRouter, ConfiguredUnit>;

constexpr Index sequences = 64, length = 6, vocab = 64;

Dims tiny(std::string_view router, Index top_k = 1) {
  Dims d{.vocab = vocab, .d_model = 32, .d_state = 4, .d_conv = 3, .d_ffn = 16, .n_experts = 8, .top_k = top_k, .depth = 1};
  d.router.kind = Routers::index(router);
  return d;
}

/// All sequences as one batch. After the first token of each come tokens of which the k-th is drawn with probability ~ 1 / k.
TokenBatch text() {
  TokenBatch out{sequences * length, sequences};
  out.clear();
  Random const random{1};
  std::uint64_t drawn = 0;
  for (Index s = 0; s < sequences; ++s) {
    auto const [tokens, targets] = out.take(length);
    tokens[0] = static_cast<Token>(s);
    for (std::size_t i = 0; i < targets.size(); ++i)
      targets[i] = static_cast<Token>(std::pow(static_cast<double>(vocab), random.uniform(drawn++)) - 1);
    for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i] = targets[i - 1];
    out.add_valid(length);
  }
  return out;
}

/// What a run of `steps` steps ends with.
struct Outcome {
  double loss = 0;     ///< nats a target, of the last step
  double max_vio = 0;  ///< mean over the last half of the steps
  Index dropped = 0;   ///< assignments of all steps that found their expert full
};

/// `preferred`: what the router's bias gives the first expert before the first step.
Outcome learn(Dims const& dims, float preferred = 0) {
  // A ReLU's coefficient grows for some 100 steps before it is felt, and then takes experts away from under the network, which
  // learns anew with those that are left.
  Index const steps = dims.router.kind == Routers::index("relu") ? 200 : 120;
  Model<Net, float, Cpu> model{dims, Cpu{2}};
  model.initialise(1);
  std::get<1>(model.params().body[0]).mixer.router_bias(0) = preferred;
  TrainerOptions options;
  options.adamw.weight_decay = 0;
  options.schedule = {.kind = ScheduleKind::cosine, .peak = 0.02, .warmup = 5, .steps = steps};
  Trainer<Net, float, Cpu> trainer{model, options};
  auto const batch = text();
  Outcome out;
  for (Index step = 0; step < steps; ++step) {
    out.loss = trainer.step([&](Index) -> TokenBatch const& { return batch; }).loss;
    auto const& routing = trainer.routing()[0];
    if (2 * step >= steps) out.max_vio += 2 * routing.balance.max_vio / static_cast<double>(steps);
    out.dropped += routing.dropped;
  }
  return out;
}

/// Nats a target that count as learnt: of 4.16 before the first step, and a probability above 0.95 for the right token.
constexpr double learnt = 0.05;

void check_learns(std::string_view what, Dims const& dims) {
  INFO(what);
  CHECK(learn(dims).loss < learnt);
}

}  // namespace

TEST_CASE("overfit: with every router the loss of 64 sequences goes to zero") {
  for (auto const name : Routers::names()) check_learns(name, tiny(name));
}

TEST_CASE("overfit: so it does with each kind of expert") {
  for (bool gated : {true, false})
    for (auto const activation : {Activation::gelu_erf, Activation::silu, Activation::relu, Activation::relu_squared}) {
      Dims d = tiny("topk", 2);
      d.gated = gated, d.activation = activation;
      check_learns(concat(gated ? "gated " : "plain ", static_cast<int>(activation)), d);
    }
}

TEST_CASE("overfit: so it does with shared experts, with many small experts, and with experts that are full") {
  Dims shared = tiny("switch");
  shared.shared = 1;
  check_learns("shared", shared);

  Dims fine = tiny("topk", 4);
  fine.n_experts = 16, fine.d_ffn = 8;
  check_learns("fine-grained", fine);

  for (auto const name : {"top1", "switch", "bias"}) {
    Dims full = tiny(name);
    full.router.capacity_factor = 1.25;
    auto const outcome = learn(full);
    INFO(name, ", capacity 1.25, dropped ", outcome.dropped);
    CHECK(outcome.loss < learnt);
    CHECK(outcome.dropped > 0);
  }
}

// The router's bias begins by preferring one of 8 experts by 2, more than the logits of the first steps differ by. top1 stays
// there: what is chosen learns, and what learns is chosen. Measured with seeds 1, 2 and 3, MaxVio of at most 7: top1 6.7, 6.2, 6.6;
// sinkhorn-megatron 0.30, 0.40, 0.27; sinkhorn 0.16, 0.26, 0.64; sinkhorn-log 0.27, 0.09, 0.16; bias, at a rate that 120 steps can
// use, 0.14, 0.14, 0.16; quantile 0.03, 0.03, 0.04; expert-choice 0.
TEST_CASE("overfit: routers that balance do where top-1 collapses") {
  float const preferred = 2;
  auto const plain = learn(tiny("top1"), preferred);
  CHECK(plain.max_vio > 5);
  for (auto const name : {"sinkhorn-megatron", "sinkhorn", "sinkhorn-log", "bias", "quantile", "expert-choice"}) {
    Dims d = tiny(name);
    d.router.rate = 0.02;
    auto const balanced = learn(d, preferred);
    INFO(name, ": MaxVio ", balanced.max_vio, ", of top1 ", plain.max_vio);
    CHECK(balanced.max_vio < plain.max_vio);
    CHECK(balanced.max_vio < 1);  // the busiest expert has less than twice its share
    CHECK(balanced.loss < learnt);
  }
}
