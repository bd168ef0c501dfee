// Training on a GPU: the CPU's course, the same bits twice, a step as a graph.

#include <blackmamba/cuda.cuh>
#include <blackmamba/model/networks.hpp>
#include <blackmamba/train/trainer.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;

namespace {

using Net = BlackMamba<ConfiguredRouter, SwiGlu>;

Dims dims_with(Index router) {
  Dims d{.vocab = 16, .d_model = 24, .d_state = 4, .d_conv = 3, .d_ffn = 20, .n_experts = 4, .depth = 2};
  d.router.kind = router;
  d.router.rate = 0.01, d.router.z_coefficient = 1e-3;
  return d;
}

/// Arithmetic progressions modulo the vocabulary, which are learnt at once.
MemorySource text() {
  MemorySource out;
  for (Token step = 1; step < 6; ++step) {
    auto& document = out.text.emplace_back();
    for (Token i = 0; i < 200; ++i) document.push_back((i * step + step) % 16);
  }
  return out;
}

struct Course {
  std::vector<double> losses, norms;
  std::vector<RoutingStats> routing;
  Evaluation evaluation;
};

template <class T, class Ctx>
Course train(Ctx const& ctx, Dims const& d, Index steps, Index passes = 1) {
  MemorySource const source = text();
  TrainingWindows<MemorySource> const windows{source, {.length = 25, .sequences = 8, .seed = 1}};
  EvaluationWindows<MemorySource> const held_out{source, {.length = 25, .sequences = 8, .windows = 16}};
  TokenBatch batch = windows.make_batch(), held_out_batch = held_out.make_batch();
  Model<Net, T, Ctx> model{d, ctx};
  model.initialise(2);
  TrainerOptions o;
  o.passes = passes;
  o.schedule = {.kind = ScheduleKind::cosine, .peak = 0.01, .warmup = 3, .steps = 30};
  Trainer<Net, T, Ctx> trainer{model, o};
  trainer.plan(batch);
  Course out;
  for (Index i = 0, position = 0; i < steps; ++i) {
    auto const report = trainer.step([&](Index) -> TokenBatch const& {
      windows.fill(position, batch);
      position += 8;
      return batch;
    });
    out.losses.push_back(report.loss), out.norms.push_back(report.gradient_norm);
  }
  out.routing = trainer.routing();
  out.evaluation = trainer.evaluate(held_out, held_out_batch, false);
  return out;
}

}  // namespace

GPU_TEST("trainer on a GPU: in double every router learns as on the CPU, loss by loss, and chooses the same experts") {
  for (Index router = 0; router < Routers::size; ++router) {
    INFO(Routers::names()[static_cast<std::size_t>(router)]);
    auto const here = train<double>(Cuda{}, dims_with(router), 4, 2), there = train<double>(Cpu{}, dims_with(router), 4, 2);
    if (router == Routers::index("quantile")) {
      // Its thresholds are what tokens ask for, so every expert has a token exactly at its threshold: a tie that the last bit of a
      // sigmoid decides.
      for (std::size_t i = 0; i < here.losses.size(); ++i) CHECK(std::fabs(here.losses[i] - there.losses[i]) <= 0.02);
      continue;
    }
    for (std::size_t i = 0; i < here.losses.size(); ++i) {
      CHECK(std::fabs(here.losses[i] - there.losses[i]) <= 1e-9);
      CHECK(std::fabs(here.norms[i] - there.norms[i]) <= 1e-8 * there.norms[i]);
    }
    REQUIRE(here.routing.size() == there.routing.size());
    for (std::size_t i = 0; i < here.routing.size(); ++i) {
      CHECK(here.routing[i].load == there.routing[i].load);
      CHECK(std::fabs(here.routing[i].confidence - there.routing[i].confidence) <= 1e-6);
      CHECK(here.routing[i].moved == there.routing[i].moved);
    }
    REQUIRE(here.evaluation.layers.size() == there.evaluation.layers.size());
    for (std::size_t i = 0; i < here.evaluation.layers.size(); ++i)
      CHECK(here.evaluation.layers[i].experts == there.evaluation.layers[i].experts);
  }
}

GPU_TEST_TEMPLATE("trainer on a GPU: two runs give the same bits, and learn", T, float, bf16) {
  Dims const d = dims_with(Routers::index("sinkhorn-log"));
  auto const one = train<T>(Cuda{}, d, 30), two = train<T>(Cuda{}, d, 30);
  CHECK(one.losses == two.losses);
  CHECK(one.norms == two.norms);
  CHECK(one.losses.back() < 0.5 * one.losses.front());
}

GPU_TEST("trainer on a GPU: a step of all passes and the optimiser is recorded as a graph, and replays as it ran") {
  Cuda const ctx;
  using T = bf16;
  Dims const d = dims_with(Routers::index("switch"));
  auto const with = [&](bool recorded) {
    Model<Net, T, Cuda> model{d, ctx};
    model.initialise(2);
    Gradients<Net, T, Cuda> gradients{model};
    AdamW<T, Cuda> optimiser{ctx, model.flat(), parameter_segments(model), {}};
    TensorOn<Cuda, Token, 2> const tokens{ctx, Shape<2>{1, 64}};
    Tensor<Token, 2> ids{Shape<2>{1, 64}};
    for (Index i = 0; i < 64; ++i) ids(0, i) = static_cast<Token>(i * 5 % 16);
    upload(ctx, ids.view(), tokens.view());
    optimiser.request(ctx, 1e-3, 1.0 / 128);
    auto const step = [&] {
      gradients.begin_step();
      for (int pass = 0; pass < 2; ++pass) gradients.queue(tokens, tokens, {.targets = 1});
      optimiser.queue(ctx, gradients.flat());
    };
    step();
    step();
    if (recorded) {
      gradients.tape().seal();
      CudaGraph const graph{ctx, step};
      graph.launch();
      graph.launch();
    } else {
      step();
      step();
    }
    CHECK(optimiser.steps() == 4);
    return download(ctx, model.flat());
  };
  CHECK(test::same_bits(with(true), with(false)));
}

GPU_TEST("trainer on a GPU: a loss that is not finite is told, and leaves the weights as they were") {
  Cuda const ctx;
  Dims const d = dims_with(0);
  Model<Net, float, Cuda> model{d, ctx};
  model.initialise(2);
  auto broken = download(ctx, model.flat());
  broken(0) = std::numeric_limits<float>::infinity();
  upload(ctx, broken.view(), model.flat());
  MemorySource const source = text();
  TrainingWindows<MemorySource> const windows{source, {.length = 25, .sequences = 8, .seed = 1}};
  TokenBatch batch = windows.make_batch();
  Trainer<Net, float, Cuda> trainer{model, {}};
  windows.fill(0, batch);
  CHECK_THROWS_AS(trainer.step([&](Index) -> TokenBatch const& { return batch; }), value_error);
  CHECK(test::same_bits(download(ctx, model.flat()), broken));
  CHECK(std::isnan(trainer.loss(batch)));
}

GPU_TEST("trainer on a GPU: a token outside of the vocabulary is told, and leaves the weights as they were") {
  Cuda const ctx;
  Model<Net, float, Cuda> model{dims_with(0), ctx};
  model.initialise(2);
  MemorySource source = text();
  for (auto& document : source.text) document[30] = 16;
  TrainingWindows<MemorySource> const windows{source, {.length = 25, .sequences = 8, .seed = 1}};
  TokenBatch batch = windows.make_batch();
  Trainer<Net, float, Cuda> trainer{model, {}};
  Index position = 0;
  auto const next = [&](Index) -> TokenBatch const& {
    windows.fill(position, batch);
    position += 8;
    return batch;
  };
  Index refused = 0;
  for (int i = 0; i < 5; ++i) {
    auto const weights = download(ctx, model.flat());
    Index const steps = trainer.steps();
    try {
      trainer.step(next);
    } catch (value_error const& e) {
      ++refused;
      CHECK(std::string{e.what()}.find("is 16, ") != std::string::npos);  // as a token or, at the end of a window, as a target
      CHECK(test::same_bits(download(ctx, model.flat()), weights));
      CHECK(trainer.steps() == steps);
    }
  }
  CHECK(refused > 0);
}
