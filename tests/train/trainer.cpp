#include <blackmamba/model/networks.hpp>
#include <blackmamba/train/trainer.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

using Net = BlackMamba<ConfiguredRouter, SwiGlu>;

Dims dims_with(std::string_view router) {
  Dims d{.vocab = 16, .d_model = 24, .d_state = 4, .d_conv = 3, .d_ffn = 20, .n_experts = 4, .depth = 2};
  d.router.kind = Routers::index(router);
  return d;
}

/// Documents of arithmetic progressions modulo the vocabulary, which are learnt at once.
MemorySource text() {
  MemorySource out;
  for (Token step = 1; step < 6; ++step) {
    auto& document = out.text.emplace_back();
    for (Token i = 0; i < 200; ++i) document.push_back((i * step + step) % 16);
  }
  return out;
}

TrainerOptions options() {
  TrainerOptions o;
  o.schedule = {.kind = ScheduleKind::cosine, .peak = 0.01, .warmup = 3, .steps = 30};
  return o;
}

/// A model, its trainer and its text.
template <class T, class Ctx = Cpu>
struct Training {
  MemorySource source = text();
  TrainingWindows<MemorySource> windows{source, {.length = 25, .sequences = 8, .seed = 1}};
  TokenBatch batch = windows.make_batch();
  Model<Net, T, Ctx> model;
  Trainer<Net, T, Ctx> trainer;
  Index position = 0;

  explicit Training(Dims const& dims, Ctx ctx = Ctx{}, TrainerOptions o = options())
      : model{initialised(dims, ctx)}, trainer{model, o} {}

  static Model<Net, T, Ctx> initialised(Dims const& dims, Ctx const& ctx) {
    Model<Net, T, Ctx> model{dims, ctx};
    model.initialise(2);
    return model;
  }
  StepReport step() {
    return trainer.step([&](Index) -> TokenBatch const& {
      windows.fill(position, batch);
      position += 8;
      return batch;
    });
  }
  std::vector<T> weights() const { return {model.flat().data(), model.flat().data() + model.flat().size()}; }
};

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE_TEMPLATE("trainer: it learns, in every scalar", T, float, double, bf16, half) {
  Training<T> run{dims_with("top1")};
  double const first = run.step().loss;
  CHECK(first > 2.5);
  double last = first;
  for (int i = 0; i < 29; ++i) last = run.step().loss;
  CHECK(last < 0.6 * first);
  CHECK(run.trainer.steps() == 30);
}

TEST_CASE("trainer: same seed, same bits, on one thread and on two") {
  for (auto const name : Routers::names()) {
    INFO(name);
    Training<float> one{dims_with(name), Cpu{1}}, two{dims_with(name), Cpu{2}};
    for (int i = 0; i < 4; ++i) {
      auto const a = one.step(), b = two.step();
      CHECK(a.loss == b.loss);
      CHECK(a.gradient_norm == b.gradient_norm);
    }
    CHECK(same_bits(one.weights(), two.weights()));
  }
}

TEST_CASE_TEMPLATE("trainer: a run that is resumed goes on bit for bit", T, float, bf16) {
  Training<T> whole{dims_with("top1")};
  for (int i = 0; i < 7; ++i) whole.step();
  Training<T> first{dims_with("top1")};
  for (int i = 0; i < 4; ++i) first.step();

  Training<T> second{dims_with("top1")};
  std::copy_n(first.model.flat().data(), first.model.flat().size(), second.model.flat().data());
  std::vector<View<accumulator_t<T>, 1>> kept;
  first.trainer.optimiser().for_each_array([&](char const*, auto view) { kept.push_back(view); });
  std::size_t i = 0;
  second.trainer.optimiser().for_each_array([&](char const*, auto view) {
    std::copy_n(kept[i].data(), view.size(), view.data());
    ++i;
  });
  second.trainer.optimiser().set_steps(first.trainer.steps());
  second.position = first.position;
  for (int step = 4; step < 7; ++step) second.step();
  CHECK(same_bits(whole.weights(), second.weights()));
}

TEST_CASE("trainer: a step over several passes is a step over their targets at once") {
  auto const source = text();
  TrainerOptions o = options();
  Training<double> once{dims_with("topk"), Cpu{1}, o};
  o.passes = 2;
  Training<double> twice{dims_with("topk"), Cpu{1}, o};
  TrainingWindows<MemorySource> halves{source, {.length = 25, .sequences = 4, .seed = 1}};
  auto half = halves.make_batch();
  auto const a = once.step();
  auto const b = twice.trainer.step([&](Index pass) -> TokenBatch const& {
    halves.fill(4 * pass, half);
    return half;
  });
  CHECK(a.targets == b.targets);
  CHECK(std::fabs(a.loss - b.loss) <= 1e-14);
  CHECK(std::fabs(a.gradient_norm - b.gradient_norm) <= 1e-13);
}

TEST_CASE("trainer: a step takes the memory that the plan says") {
  for (auto const name : Routers::names())
    for (Keep const keep : {Keep::activations, Keep::inputs}) {
      INFO(name);
      TrainerOptions o = options();
      o.keep = keep;
      Training<float> run{dims_with(name), Cpu{2}, o};
      auto const before = run.weights();
      auto const plan = run.trainer.plan(run.batch);
      CHECK(same_bits(before, run.weights()));
      CHECK(plan.weights == run.model.flat().size() * 4);
      CHECK(plan.activations > 0);
      for (int i = 0; i < 3; ++i) CHECK_NOTHROW(run.step());
      CHECK(static_cast<Index>(run.model.ctx().scratch().peak()) == plan.temporary);
    }
}

TEST_CASE("trainer: it says what the routers did, and gathering that changes nothing") {
  TrainerOptions o = options();
  Training<float> with{dims_with("sinkhorn"), Cpu{2}, o};
  o.telemetry = false;
  Training<float> without{dims_with("sinkhorn"), Cpu{2}, o};
  for (int i = 0; i < 3; ++i) with.step(), without.step();
  CHECK(same_bits(with.weights(), without.weights()));
  CHECK(without.trainer.routing().empty());
  REQUIRE(with.trainer.routing().size() == 2);
  for (auto const& layer : with.trainer.routing()) {
    Index sum = 0;
    for (Index const load : layer.load) sum += load;
    CHECK(sum == 200);
    CHECK(layer.tokens == 200);
    CHECK(layer.iterations > 0);
    CHECK(layer.moved.has_value());
  }
  CHECK(with.trainer.routing()[0].layer == 1);
  CHECK(with.trainer.routing()[1].layer == 3);
}

TEST_CASE("trainer: full experts drop tokens in training, and say how many") {
  Dims d = dims_with("top1");
  d.router.capacity_factor = 0.5;
  Training<float> run{d};
  run.step();
  for (auto const& layer : run.trainer.routing()) {
    CHECK(layer.dropped >= 100);
    for (Index const load : layer.load) CHECK(load <= 200);
  }
}

TEST_CASE("trainer: an evaluation is the same twice, and says who moved") {
  Training<float> run{dims_with("topk")};
  EvaluationWindows<MemorySource> const held_out{run.source, {.length = 25, .sequences = 8}};
  auto batch = held_out.make_batch();
  auto const first = run.trainer.evaluate(held_out, batch, true);
  auto const again = run.trainer.evaluate(held_out, batch, true, &first);
  CHECK(first.loss == again.loss);
  CHECK(first.targets == 995);
  REQUIRE(again.layers.size() == 2);
  CHECK_FALSE(first.layers[0].churn.has_value());
  CHECK(again.layers[0].churn == 0.0);
  CHECK(again.layers[0].moved == 0);
  CHECK(again.layers[0].counts.size() == 4 * byte_classes);
  for (int i = 0; i < 20; ++i) run.step();
  auto const later = run.trainer.evaluate(held_out, batch, true, &first);
  CHECK(later.loss < first.loss);
  CHECK(*later.layers[1].churn > 0);
}

TEST_CASE("trainer: a loss that is not finite stops it with the step, and the weights stay as they were") {
  Training<float> run{dims_with("top1")};
  run.step();
  auto const good = run.weights();
  run.model.flat()[0] = std::numeric_limits<float>::infinity();
  auto const broken = run.weights();
  CHECK_THROWS_WITH_AS(run.step(), doctest::Contains("step 2"), value_error);
  CHECK(same_bits(broken, run.weights()));
  run.model.flat()[0] = good[0];
  CHECK(run.step().step == 2);
}
