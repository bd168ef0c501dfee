#pragma once
/// \file
/// The loss of a batch and its gradient by every parameter.
///
///   loss = mean over valid targets of cross_entropy(logits, target) + what the routers add
///
/// Forward keeps what backward needs on a tape, an arena that is rewound when the pass ends; gradients lie in one flat array beside
/// the weights and are added to, so a step may be several passes.

#include <memory>

#include <blackmamba/model/model.hpp>
#include <blackmamba/ops/accumulate/accumulate.hpp>
#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/loss_sum/loss_sum.hpp>

namespace blackmamba {

/// What a pass may be told beside its tokens.
struct GradientOptions {
  View<Index const, 1> offsets{};  ///< packed sequences in the one row of the batch
  Token ignore_index = -100;       ///< targets that do not count
  double z_coefficient = 0;        ///< of the square of log Σ_v e^logit_v
  Index targets = 0;               ///< valid targets that the mean is over, those of all passes of a step; 0: those of this pass,
                                   ///< which a device is waited for to count
  double auxiliary_scale = 1;      ///< of what the routers add: 1 / passes of a step
  Mode mode = Mode::training;
  std::uint64_t seed = 0;  ///< of the step, for routers that draw
};

/// What passes say.
template <class A>
struct LossReport {
  A loss_sum = A(0);     ///< of the cross-entropy over the valid targets, in nats, the z-loss included
  Index targets = 0;     ///< that were valid
  double auxiliary = 0;  ///< what the routers add to the loss, all layers, each pass times its auxiliary_scale

  A loss() const { return targets ? loss_sum / static_cast<A>(targets) : A(0); }
};

/// Gradients of a model's weights, and the memory that computing them takes, which is the context's.
///
/// Deterministic: same tokens, same bits, on any number of threads. After the first pass of a shape nothing is allocated.
template <class Net, Scalar T, Context Ctx>
class Gradients {
 public:
  using A = accumulator_t<T>;
  using Model = blackmamba::Model<Net, T, Ctx>;

  /// The model must outlive this.
  explicit Gradients(Model const& model, Keep keep = Keep::activations)
      : model_{&model},
        keep_{keep},
        gradients_{model.dims(), model.ctx()},
        tape_{std::make_unique<Arena>(model.ctx().memory())},
        carry_{std::make_unique<Arena>(model.ctx().memory())},
        sums_{model.ctx(), Shape<1>{2}},
        targets_{model.ctx(), Shape<1>{1}} {}

  /// All of them, flat, beside `model.flat()`.
  View<A, 1> flat() const { return gradients_.flat(); }
  typename Net::template Params<A> const& params() const { return gradients_.params(); }

  /// Runs a reader over the gradients, which have the parameters' names (see layers/walk.hpp), and `then` while the views that it
  /// got are valid: on a device, views of a copy on the host.
  template <class Reader, class Then>
  void inspect(Reader& reader, Then&& then) {
    gradients_.inspect(model_->dims(), reader, then);
  }
  template <class Reader>
  void walk(Reader& reader) {
    gradients_.walk(model_->dims(), reader);
  }

  /// Zeros, and so for what the routers carry over the passes of a step, and for `report`.
  void begin_step() {
    auto const& ctx = model_->ctx();
    set_zero(ctx, gradients_.flat());
    clear_report();
    mixtures([&](Index, auto, Dims const&, auto&, auto& saved) {
      if (!saved.load) return;
      set_zero(ctx, saved.load), set_zero(ctx, saved.observed);
      saved.tokens = 0;
    });
  }

  /// Adds the gradient of the loss of tokens (B, L) against targets (B, L). `after` is called while what the pass kept is still
  /// there: the place to read `mixtures`. On a device all of it is queued; `report` says what came of it.
  /// Throws `shape_error` on shapes that disagree, `value_error` on a token or target outside the vocabulary, naming its place.
  template <class After>
  void queue(View<Token const, 2> tokens, View<Token const, 2> targets, GradientOptions const& options, After&& after) {
    auto const tape_scope = tape_->scope();
    auto const scope = model_->ctx().scratch().scope();
    auto const pass = pass_of(options);
    auto const y = hidden(pass, tokens, targets);
    auto const d_y = model_->ctx().scratch().template take<T>(y.shape());
    output_loss(pass, y.rows(), targets, options, d_y.rows());
    Net::backward(pass, model_->dims(), model_->params(), saved_, tokens, d_y, gradients_.params());
    mixtures([&](Index, auto, Dims const&, auto&, auto& saved) {
      auto* const said = saved.report.data();
      for (A* const loss : {&said->loss, &said->z_loss})
        accumulate(pass.ctx,
                   AccumulateArgs<A>{
                       .x = View<A, 1>{loss, Shape<1>{1}}, .scale = options.auxiliary_scale, .y = sums_.view().slice(0, 1, 1)});
    });
    after();
  }
  void queue(View<Token const, 2> tokens, View<Token const, 2> targets, GradientOptions const& options = {}) {
    queue(tokens, targets, options, [] {});
  }

  /// Makes the gradient not finite where the loss or what the routers add is not, so that no optimiser follows it: without a wait.
  void spoil_unless_finite() {
    auto const first = flat().slice(0, 0, std::min(Index{2}, flat().size()));
    accumulate(model_->ctx(), AccumulateArgs<A>{.x = sums_.view().slice(0, 0, first.size()), .scale = 0, .y = first});
  }

  /// What the passes queued since `begin_step` come to. Waits for them, and throws what they found wrong.
  LossReport<A> report() const {
    auto const& ctx = model_->ctx();
    auto const sums = download(ctx, sums_.view());
    return {.loss_sum = sums(0), .targets = download(ctx, targets_.view())(0), .auxiliary = static_cast<double>(sums(1))};
  }

  /// `queue`, and what came of this pass.
  template <class After>
  LossReport<A> add(View<Token const, 2> tokens, View<Token const, 2> targets, GradientOptions const& options, After&& after) {
    clear_report();
    queue(tokens, targets, options, after);
    return report();
  }
  LossReport<A> add(View<Token const, 2> tokens, View<Token const, 2> targets, GradientOptions const& options = {}) {
    return add(tokens, targets, options, [] {});
  }

  /// The loss alone, without what the routers add; no gradient changes.
  template <class After>
  LossReport<A> loss(View<Token const, 2> tokens, View<Token const, 2> targets, GradientOptions const& options, After&& after) {
    auto const tape_scope = tape_->scope();
    auto const scope = model_->ctx().scratch().scope();
    auto const pass = pass_of(options);
    clear_report();
    auto const y = hidden(pass, tokens, targets);
    output_loss(pass, y.rows(), targets, options, {});
    after();
    return report();
  }

  /// visit(layer, Type<mixture>{}, dims of the layer, its parameters, what it saved) for every mixture that a pass has run through.
  template <class Visit>
  void mixtures(Visit&& visit) {
    if (saved_.body.empty()) return;
    Net::body::mixtures(model_->dims(), model_->params().body, saved_.body, visit);
  }

  Arena& tape() { return *tape_; }

 private:
  Pass<Ctx, T> pass_of(GradientOptions const& options) const {
    return {.ctx = model_->ctx(),
            .offsets = options.offsets,
            .mode = options.mode,
            .seed = options.seed,
            .tape = tape_.get(),
            .keep = keep_,
            .carry = carry_.get(),
            .auxiliary_scale = options.auxiliary_scale};
  }

  /// What the output reads, on the tape.
  View<T, 3> hidden(Pass<Ctx, T> const& pass, View<Token const, 2> tokens, View<Token const, 2> targets) {
    check_shape("gradients", "targets", targets, tokens.shape(), "tokens");
    auto const y = tape_->template take<T>(Shape<3>{tokens.extent(0), tokens.extent(1), model_->dims().d_model});
    Net::hidden(pass, model_->dims(), model_->params(), tokens, y, saved_);
    return y;
  }

  void clear_report() {
    set_zero(model_->ctx(), sums_.view());
    set_zero(model_->ctx(), targets_.view());
  }

  /// Adds to the sums the loss, and computes d_y from it if there is a d_y, a bounded number of rows of logits at a time.
  void output_loss(Pass<Ctx, T> const& pass, View<T, 2> y, View<Token const, 2> of_rows, GradientOptions const& options,
                   View<T, 2> d_y) {
    auto const targets = of_rows.reshaped(Shape<1>{of_rows.size()});
    // A host wants them in its cache, a device wants many at once.
    constexpr Index elements = Index{1} << (std::derived_from<Ctx, Reference> ? 21 : 27);
    auto const& dims = model_->dims();
    Index const rows = y.extent(0);
    Index const at_once = std::min(rows, std::max(Index{64}, elements / dims.vocab));
    Index const mean_over = options.targets || !d_y ? options.targets : valid(targets, options.ignore_index);
    auto const logits = pass.ctx.scratch().template take<T>(Shape<2>{at_once, dims.vocab});
    auto const losses = pass.ctx.scratch().template take<A>(Shape<1>{at_once});
    for (Index begin = 0; begin < rows; begin += at_once) {
      Index const n = std::min(at_once, rows - begin);
      auto const x = y.slice(0, begin, n);
      auto const part = logits.slice(0, 0, n);
      auto const part_targets = targets.slice(0, begin, n);
      auto const part_losses = losses.slice(0, 0, n);
      Net::output(pass, dims, model_->params(), x, part);
      cross_entropy(pass.ctx, CrossEntropyArgs<T>{.logits = part,
                                                  .targets = part_targets,
                                                  .ignore_index = options.ignore_index,
                                                  .z_coefficient = options.z_coefficient,
                                                  .losses = part_losses});
      loss_sum(pass.ctx, LossSumArgs<A>{.losses = part_losses,
                                        .targets = part_targets,
                                        .ignore_index = options.ignore_index,
                                        .sum = sums_.view().slice(0, 0, 1),
                                        .count = targets_});
      if (!d_y) continue;
      cross_entropy_backward(pass.ctx, CrossEntropyBackwardArgs<T>{.logits = part,
                                                                   .targets = part_targets,
                                                                   .ignore_index = options.ignore_index,
                                                                   .z_coefficient = options.z_coefficient,
                                                                   .scale = mean_over ? 1.0 / static_cast<double>(mean_over) : 0.0,
                                                                   .d_logits = part});
      Net::output_backward(pass, dims, model_->params(), x, part, d_y.slice(0, begin, n), gradients_.params());
    }
  }

  Index valid(View<Token const, 1> targets, Token ignore_index) const {
    auto const count = [&](View<Token const, 1> on_host) {
      Index n = 0;
      for (Index i = 0; i < on_host.size(); ++i) n += on_host[i] != ignore_index;
      return n;
    };
    if constexpr (std::derived_from<Ctx, Reference>)
      return count(targets);
    else
      return count(download(model_->ctx(), targets).view());
  }

  Model const* model_;
  Keep keep_;
  Weights<Net, A, Ctx> gradients_;
  std::unique_ptr<Arena> tape_, carry_;
  TensorOn<Ctx, A, 1> sums_;         // of the losses, and of what the routers add
  TensorOn<Ctx, Index, 1> targets_;  // that were valid
  typename Net::template Saved<T> saved_{};
};

}  // namespace blackmamba
