#pragma once
/// \file
/// A model that learns: steps over batches of tokens, what its routers move afterwards, and what both are told of.
///
///   gradient = Σ over passes of d (cross-entropy summed over valid targets + targets · what the routers add)
///   weights ← AdamW(weights, gradient / valid targets of all passes)
///   routers update their memory from the load of the step
///
/// So a step over several passes is a step over one batch with all of their targets, whatever part of them each pass has.

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <blackmamba/model/gradients.hpp>
#include <blackmamba/train/optimiser.hpp>
#include <blackmamba/train/schedule.hpp>
#include <blackmamba/train/specialisation.hpp>
#include <blackmamba/train/telemetry.hpp>
#include <blackmamba/train/windows.hpp>

namespace blackmamba {

struct TrainerOptions {
  Index passes = 1;  ///< batches of a step, one forward and backward pass each
  AdamWOptions adamw{};
  Schedule schedule{};
  double z_coefficient = 0;       ///< of the z-loss on the output's logits
  Keep keep = Keep::activations;  ///< what passes keep
  bool telemetry = true;          ///< gather `routing()`
  std::uint64_t seed = 0;         ///< of what routers draw
};

/// What a step did.
struct StepReport {
  Index step = 0;        ///< steps done, this one included
  Index targets = 0;     ///< that were learnt from
  double loss = 0;       ///< mean over them in nats, before the step; without what the routers add
  double auxiliary = 0;  ///< what they add
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
};

/// What an evaluation says of one mixture layer.
struct LayerEvaluation {
  Index layer = 0;
  std::vector<int> experts;  ///< (tokens, slots) as inference chooses
  Index slots = 0;
  double moved = 0;               ///< share of tokens whose experts would be others in training
  std::optional<double> churn{};  ///< share of tokens whose experts changed since the evaluation that it was compared with
  std::vector<Index> counts{};    ///< (n_experts, byte_classes) row-major, for text of bytes
};

/// What an evaluation says.
struct Evaluation {
  Index targets = 0;
  double loss = 0;  ///< mean over targets, in nats
  std::vector<LayerEvaluation> layers{};
};

/// Bytes that training holds.
struct MemoryPlan {
  Index weights = 0, gradients = 0;
  Index optimiser = 0;    ///< moments, and masters of narrow weights
  Index activations = 0;  ///< what a pass keeps for its way back
  Index temporary = 0;    ///< what operations take and give back
  Index total() const { return weights + gradients + optimiser + activations + temporary; }
};

/// Trains a model that outlives it. Batches are on the host, all else is where the model is; there a step is queued as a whole, and
/// waited for when its report is read.
///
/// Deterministic: same weights, options and batches, same bits, on any number of threads. Once `plan` has been called a step takes
/// no memory beyond what it said: one that wanted to would throw `memory_error`.
template <class Net, Scalar T, Context Ctx>
class Trainer {
 public:
  using A = accumulator_t<T>;
  using Model = blackmamba::Model<Net, T, Ctx>;
  static constexpr bool host_memory = std::derived_from<Ctx, Reference>;

  /// Starts from the model's weights as they are. Throws `value_error` on options that make no sense.
  Trainer(Model& model, TrainerOptions const& options)
      : model_{&model},
        options_{options},
        gradients_{model, options.keep},
        optimiser_{model.ctx(), model.flat(), parameter_segments(model), options.adamw} {
    check_value(options.passes >= 1, "trainer", "passes is ", options.passes, ", not at least 1");
    check_schedule(options.schedule);
  }

  TrainerOptions const& options() const { return options_; }
  Model& model() { return *model_; }
  AdamW<T, Ctx>& optimiser() { return optimiser_; }
  Index steps() const { return optimiser_.steps(); }

  /// Runs a pass of a batch's size without learning from it, to see what memory steps take.
  MemoryPlan plan(TokenBatch const& like) {
    Tensor<Token, 2> const tokens{Shape<2>{1, like.size()}};  // all alike: some expert gets as many rows as it can
    Tensor<Index, 1> offsets{Shape<1>{like.max_sequences() + 1}};
    for (Index s = 0; s < offsets.size(); ++s) offsets(s) = std::min(s, like.size());
    offsets(offsets.size() - 1) = like.size();
    auto const placed = place(tokens, tokens, offsets);
    gradients_.begin_step();
    for (Mode const mode : {Mode::training, Mode::inference})
      gradients_.add(placed.tokens, placed.targets, {.offsets = placed.offsets, .targets = 1, .mode = mode},
                     [&] { observe(placed, true); });
    gradients_.begin_step();
    planned_ = true;
    auto const& arena = model_->ctx().scratch();
    return {.weights = model_->flat().size() * static_cast<Index>(sizeof(T)),
            .gradients = gradients_.flat().size() * static_cast<Index>(sizeof(A)),
            .optimiser = AdamW<T>::memory_bytes(model_->flat().size()),
            .activations = static_cast<Index>(gradients_.tape().peak()),
            .temporary = static_cast<Index>(arena.peak())};
  }

  /// One step over the batches `next(0)` … `next(passes - 1)`. Throws `value_error` if the loss or the gradient is not finite, or
  /// if there is no target to learn from: the weights are as they were then.
  template <class Next>
  StepReport step(Next&& next) {
    Sealed const sealed{*this};
    Index const number = steps() + 1;
    StepReport report{.step = number, .learning_rate = options_.schedule.at(number - 1)};
    gradients_.begin_step();
    for (auto& counter : counters_) counter.start();
    for (Index pass = 0; pass < options_.passes; ++pass) {
      TokenBatch const& batch = next(pass);
      auto const placed = place(batch);
      GradientOptions const here{.offsets = placed.offsets,
                                 .ignore_index = no_target,
                                 .z_coefficient = options_.z_coefficient,
                                 .targets = 1,
                                 .auxiliary_scale = static_cast<double>(batch.valid()),
                                 .seed = seed_of(number, pass)};
      named(number, [&] {
        gradients_.queue(placed.tokens, placed.targets, here, [&] {
          if (options_.telemetry) observe(placed, pass + 1 == options_.passes);
        });
      });
      report.targets += batch.valid();
    }
    check_value(report.targets > 0, "trainer", "step ", number, ": the batch has no target to learn from");
    auto const targets = static_cast<double>(report.targets);
    auto const& ctx = model_->ctx();
    // Waits for the passes: where their data or their loss is wrong, this throws, and the weights are as they were.
    auto const said = named(number, [&] { return gradients_.report(); });
    report.loss = static_cast<double>(said.loss_sum) / targets, report.auxiliary = said.auxiliary / targets;
    check_value(std::isfinite(report.loss) && std::isfinite(report.auxiliary), "trainer", "step ", number, ": the loss is ",
                report.loss, ", and what the routers add ", report.auxiliary);
    optimiser_.step(ctx, gradients_.flat(), report.learning_rate, 1 / targets);
    auto const result = optimiser_.report();
    report.gradient_norm = result.gradient_norm;
    check_value(result.applied, "trainer", "step ", number, ": the gradient's norm is ", result.gradient_norm, ", at a loss of ",
                report.loss);
    update_routers();
    if (options_.telemetry) {
      routing_.resize(counters_.size());
      for (std::size_t i = 0; i < counters_.size(); ++i) counters_[i].stats(routing_[i]);
    }
    return report;
  }

  /// The loss of a batch under the weights as they are, which learn nothing from it. NaN where a pass is refused, as routers do
  /// with logits that are not numbers: whether it is finite says whether the weights are worth keeping.
  double loss(TokenBatch const& batch) {
    try {
      auto const placed = place(batch);
      auto const said = gradients_.loss(placed.tokens, placed.targets,
                                        {.offsets = placed.offsets, .ignore_index = no_target, .seed = options_.seed}, [] {});
      return static_cast<double>(said.loss());
    } catch (value_error const&) {
      return std::numeric_limits<double>::quiet_NaN();
    }
  }

  /// What each mixture layer did in the last step; empty without telemetry.
  std::vector<RoutingStats> const& routing() const { return routing_; }

  /// The loss on batches 0 … `windows.batches()` - 1, routed as at inference, and what the routers do there. `before`: the
  /// evaluation to compare with, over the same windows.
  template <class Windows>
  Evaluation evaluate(Windows const& windows, TokenBatch& batch, bool bytes, Evaluation const* before = nullptr) {
    Evaluation out;
    double loss_sum = 0;
    std::vector<Index> moved, tokens_of;
    std::vector<Specialisation> classes;
    for (Index index = 0; index < windows.batches(); ++index) {
      windows.fill(index, batch);
      auto const placed = place(batch);
      auto const said = gradients_.loss(
          placed.tokens, placed.targets, {.offsets = placed.offsets, .ignore_index = no_target, .mode = Mode::inference}, [&] {
            std::size_t i = 0;
            gradients_.mixtures([&]<class M>(Index layer, Type<M>, Dims const& d, auto& p, auto& saved) {
              if (i == out.layers.size()) {
                out.layers.push_back({.layer = layer, .experts = {}, .slots = saved.experts.extent(1)});
                moved.push_back(0), tokens_of.push_back(0), classes.emplace_back(d.n_experts);
              }
              auto const& ctx = model_->ctx();
              auto const scope = ctx.scratch().scope();
              auto const chosen = on_host(ctx, saved.experts);
              auto const other = on_host(ctx, routed_as<M>(Mode::training, layer, d, p, saved, placed));
              View<int const, 2> const experts{chosen};
              auto& here = out.layers[i].experts;
              for (Index t = 0; t < experts.extent(0); ++t)
                for (Index s = 0; s < experts.extent(1); ++s) here.push_back(experts(t, s));
              moved[i] += detail::count_moved("evaluate", experts, View<int const, 2>{other});
              tokens_of[i] += experts.extent(0);
              if (bytes) classes[i].add(experts, batch.tokens());
              ++i;
            });
          });
      loss_sum += static_cast<double>(said.loss_sum);
      out.targets += said.targets;
    }
    if (out.targets > 0) out.loss = loss_sum / static_cast<double>(out.targets);
    for (std::size_t i = 0; i < out.layers.size(); ++i) {
      auto& layer = out.layers[i];
      layer.moved = static_cast<double>(moved[i]) / static_cast<double>(std::max(tokens_of[i], Index{1}));
      if (bytes) layer.counts = classes[i].counts();
      if (!before || i >= before->layers.size() || before->layers[i].experts.size() != layer.experts.size()) continue;
      auto const table = [&](LayerEvaluation const& of) {
        return View<int const, 2>{of.experts.data(), Shape<2>{static_cast<Index>(of.experts.size()) / layer.slots, layer.slots}};
      };
      layer.churn = churn(table(before->layers[i]), table(layer));
    }
    return out;
  }

 private:
  /// While a planned step runs, memory does not grow.
  struct Sealed {
    explicit Sealed(Trainer& trainer) {
      if (!trainer.planned_) return;
      tape.emplace(trainer.gradients_.tape());
      scratch.emplace(trainer.model_->ctx().scratch());
    }
    std::optional<Arena::Sealed> tape{}, scratch{};
  };

  /// A batch where the model is.
  struct Placed {
    View<Token const, 2> tokens, targets;
    View<Index const, 1> offsets;
  };
  struct Room {
    TensorOn<Ctx, Token, 2> tokens, targets;
    TensorOn<Ctx, Index, 1> offsets;
  };

  Placed place(TokenBatch const& batch) {
    auto const row = [](View<Token const, 1> tokens) { return tokens.reshaped(Shape<2>{1, tokens.extent(0)}); };
    return place(row(batch.tokens()), row(batch.targets()), batch.offsets());
  }
  Placed place(View<Token const, 2> tokens, View<Token const, 2> targets, View<Index const, 1> offsets) {
    if constexpr (host_memory) {
      return {tokens, targets, offsets};
    } else {
      auto const& ctx = model_->ctx();
      if (!room_ || room_->tokens.shape() != tokens.shape() || room_->offsets.size() < offsets.size())
        room_ = std::make_unique<Room>(Room{{ctx, tokens.shape()}, {ctx, tokens.shape()}, {ctx, offsets.shape()}});
      auto const begins = room_->offsets.view().slice(0, 0, offsets.extent(0));
      upload(ctx, tokens, room_->tokens.view());
      upload(ctx, targets, room_->targets.view());
      upload(ctx, offsets, begins);
      return {room_->tokens, room_->targets, begins};
    }
  }

  std::uint64_t seed_of(Index step, Index pass) const {
    return options_.seed + 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(step * options_.passes + pass);
  }

  /// What goes wrong in a step says in which.
  template <class F>
  static auto named(Index number, F&& f) {
    try {
      return f();
    } catch (value_error const& e) {
      throw value_error(concat("trainer: step ", number, ": ", e.what()));
    }
  }

  /// The experts that the router would choose in another mode, from the logits of the pass. In the caller's scope of scratch
  /// memory.
  template <class M>
  View<int, 2> routed_as(Mode mode, Index layer, Dims const& d, auto& p, auto& saved, Placed const& placed) {
    using R = typename M::router;
    auto const& ctx = model_->ctx();
    Index const n = saved.logits.extent(0), slots = router_slots<R>(d);
    auto const experts = ctx.scratch().template take<int>(Shape<2>{n, slots});
    auto const weights = ctx.scratch().template take<A>(Shape<2>{n, slots});
    Pass<Ctx, T> const pass{.ctx = ctx,
                            .offsets = placed.offsets,
                            .mode = mode,
                            .layer = layer,
                            .tokens = placed.tokens.reshaped(Shape<1>{placed.tokens.size()}),
                            .seed = options_.seed};
    auto const observed = ctx.scratch().template take_zeros<A>(Shape<1>{d.n_experts});
    R::route(
        pass, d,
        RouterArgs<T>{.logits = saved.logits, .memory = p.memory, .experts = experts, .weights = weights, .observed = observed});
    return experts;
  }

  /// Counts what the mixtures did in the pass that is on the tape.
  void observe(Placed const& placed, bool last) {
    std::size_t i = 0;
    gradients_.mixtures([&]<class M>(Index layer, Type<M>, Dims const& d, auto& p, auto& saved) {
      if (i == counters_.size()) counters_.emplace_back(d.n_experts, layer);
      auto const& ctx = model_->ctx();
      auto const scope = ctx.scratch().scope();
      auto const logits = on_host(ctx, saved.logits);
      auto const experts = on_host(ctx, saved.experts);
      auto const inference = on_host(ctx, routed_as<M>(Mode::inference, layer, d, p, saved, placed));
      // The load of the step, which the layer adds up itself, is handed over once.
      auto const none = ctx.scratch().template take_zeros<Index>(Shape<1>{d.n_experts});
      auto const load = on_host(ctx, last ? saved.load : none);
      auto const report = on_host(ctx, saved.report);
      counters_[i++].add(
          RoutingArgs<T>{.logits = logits, .experts = experts, .inference = inference, .load = load, .report = report(0)});
    });
  }

  void update_routers() {
    gradients_.mixtures([&]<class M>(Index, Type<M>, Dims const& d, auto& p, auto& saved) {
      if constexpr (detail::HasUpdate<typename M::router>) {
        if (!p.memory) return;
        auto const& ctx = model_->ctx();
        auto const load = on_host(ctx, saved.load);
        auto const observed = on_host(ctx, saved.observed);
        auto const master = optimiser_.master(p.memory);
        auto memory = download(ctx, master);
        M::router::update(d, RouterUpdate<A>{.load = load, .tokens = saved.tokens, .observed = observed, .memory = memory});
        upload(ctx, memory.view(), master);
        optimiser_.publish(ctx, p.memory);
      }
    });
  }

  Model* model_;
  TrainerOptions options_;
  Gradients<Net, T, Ctx> gradients_;
  AdamW<T, Ctx> optimiser_;
  std::vector<RoutingCounter> counters_;
  std::vector<RoutingStats> routing_;
  std::unique_ptr<Room> room_;  // of a batch on a device
  bool planned_ = false;
};

}  // namespace blackmamba
