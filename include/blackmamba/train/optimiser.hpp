#pragma once
/// \file
/// AdamW over the flat arrays of a model: masters and moments, clipping by the global norm, and what a checkpoint keeps of them.

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <blackmamba/core/arena.hpp>
#include <blackmamba/model/parameters.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>

namespace blackmamba {

/// How weights are stepped.
struct AdamWOptions {
  double learning_rate = 1e-3;  ///< of steps that are not told one, by a schedule say
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;  ///< the gradient is scaled down to this norm where it is longer; 0: never

  friend constexpr bool operator==(AdamWOptions const&, AdamWOptions const&) = default;
};

/// Throws `value_error` naming the first option that makes no sense.
inline void check_adamw_options(AdamWOptions const& o) {
  constexpr char const* op = "optimiser";
  auto const at_least_0 = [](double value, char const* name) {
    check_value(value >= 0 && std::isfinite(value), op, name, " is ", value, ", not a finite number of at least 0");
  };
  at_least_0(o.learning_rate, "learning_rate"), at_least_0(o.weight_decay, "weight_decay"), at_least_0(o.clip, "clip");
  check_value(o.beta1 >= 0 && o.beta1 < 1, op, "beta1 is ", o.beta1, ", not in [0, 1)");
  check_value(o.beta2 >= 0 && o.beta2 < 1, op, "beta2 is ", o.beta2, ", not in [0, 1)");
  check_value(o.epsilon > 0, op, "epsilon is ", o.epsilon, ", not above 0");
}

namespace detail {

/// Notes where each tensor lies in the flat array, as `BindReader` lays them out, and whether it decays.
struct SegmentReader : NamelessWalk {
  std::vector<AdamWSegment> segments;
  Index offset = 0;

  void operator()(char const*, auto&, auto shape, Init, Decay decay) {
    Index const elements = element_count(shape);
    if (elements > 0) segments.push_back({offset, elements, decay == Decay::yes});
    offset += padded(elements);
  }
  void experts(char const*, char const* name, auto& view, auto shape, Index, Init init, Decay decay) {
    (*this)(name, view, shape, init, decay);
  }
};

}  // namespace detail

/// The tensors of a model in its flat array, in the order of the walk: what an `AdamW` trains. Padding between them is in none.
/// \param model  anything with `walk(reader)`
template <class Model>
std::vector<AdamWSegment> parameter_segments(Model& model) {
  detail::SegmentReader reader;
  model.walk(reader);
  return std::move(reader.segments);
}

/// What a step did.
struct AdamWResult {
  double gradient_norm = 0;  ///< of the whole gradient, scaled but not clipped
  double clip_factor = 1;    ///< what clipping multiplied it by
  bool applied = false;      ///< false: the norm is not finite or its square overflows A, and nothing was changed
};

/// The optimiser of weights stored in `T`, a flat array that it is bound to; everything else is in A = accumulator_t<T>.
///
/// Narrow weights get masters in A, of which they are the rounded copies; otherwise the weights are their own masters. Nothing is
/// allocated after construction but the scratch memory of the gradient's norm. Deterministic: same gradients, same bits, on any
/// number of threads.
template <Scalar T>
class AdamW {
 public:
  using A = accumulator_t<T>;
  static constexpr bool has_masters = !std::is_same_v<T, A>;

  /// Starts from the weights as they are: see `restart`. The array is contiguous and must outlive this; `segments` say what of it
  /// is trained and are those of `parameter_segments`. Throws `value_error` on options that make no sense.
  AdamW(View<T, 1> weights, std::vector<AdamWSegment> segments, AdamWOptions const& options = {})
      : weights_{weights}, segments_{std::move(segments)}, options_{options}, memory_{std::make_unique<Arena>()} {
    check_adamw_options(options);
    check_value(weights.contiguous(), "optimiser", "the weights have gaps: a stride of ", weights.stride(0));
    memory_->reserve(static_cast<std::size_t>(memory_bytes(weights.size())));
    if constexpr (has_masters)
      master_ = memory_->template take<A>(weights.shape());
    else
      master_ = weights;
    first_ = memory_->template take<A>(weights.shape());
    second_ = memory_->template take<A>(weights.shape());
    restart();
  }

  /// Bytes that masters and moments of `elements` weights take.
  static constexpr Index memory_bytes(Index elements) {
    auto const unit = static_cast<Index>(Arena::alignment);
    Index const array = ceil_div(elements * static_cast<Index>(sizeof(A)), unit) * unit;
    return (has_masters ? 3 : 2) * (array > 0 ? array : unit);
  }

  AdamWOptions const& options() const { return options_; }

  /// Begins anew: masters are the weights as they stand now, moments zeros, no step done.
  void restart() {
    if constexpr (has_masters)
      for (Index i = 0; i < master_.size(); ++i) master_(i) = widen(weights_(i));
    for (Index i = 0; i < first_.size(); ++i) first_(i) = second_(i) = A(0);
    steps_ = 0;
  }

  /// One step of `adamw` along `gradients` (n) · gradient_scale, which is 1 / (passes that were added up) say, clipped to the norm
  /// `options().clip`; leaves the weights rounded. A gradient that is not finite, or so long that its square overflows A, changes
  /// nothing and is not counted as a step: the result says so. Throws `shape_error` on gradients of another length, `value_error`
  /// on a rate that is negative or not finite or on a scale that is not above 0.
  template <class Ctx>
  AdamWResult step(Ctx const& ctx, std::type_identity_t<View<A const, 1>> gradients, double learning_rate,
                   double gradient_scale = 1) {
    constexpr char const* op = "optimiser";
    check_shape(op, "gradients", gradients, weights_.shape(), "weights");
    check_value(gradient_scale > 0, op, "gradient_scale is ", gradient_scale, ", not above 0");
    check_value(learning_rate >= 0 && std::isfinite(learning_rate), op, "learning_rate is ", learning_rate);
    AdamWResult result;
    result.gradient_norm = gradient_scale * std::sqrt(static_cast<double>(sum_squares(ctx, SumSquaresArgs<A>{.x = gradients})));
    if (!std::isfinite(result.gradient_norm)) return result;
    if (options_.clip > 0 && result.gradient_norm > options_.clip) result.clip_factor = options_.clip / result.gradient_norm;
    // A square that overflows would leave an infinite moment, which no later gradient mends.
    double const longest = std::sqrt(static_cast<double>(std::numeric_limits<A>::max()));
    if (result.gradient_norm * result.clip_factor >= longest) return result;
    result.applied = true;
    adamw(ctx, AdamWArgs<T>{.master = master_,
                            .gradient = gradients,
                            .first = first_,
                            .second = second_,
                            .weights = has_masters ? weights_ : View<T, 1>{},
                            .segments = {segments_.data(), Shape<1>{static_cast<Index>(segments_.size())}},
                            .step = steps_ + 1,
                            .learning_rate = learning_rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .epsilon = options_.epsilon,
                            .weight_decay = options_.weight_decay,
                            .gradient_scale = gradient_scale * result.clip_factor});
    ++steps_;
    return result;
  }

  /// The same at `options().learning_rate`.
  template <class Ctx>
  AdamWResult step(Ctx const& ctx, std::type_identity_t<View<A const, 1>> gradients) {
    return step(ctx, gradients, options_.learning_rate);
  }

  /// The weights in full precision, (n).
  View<A, 1> master() const { return master_; }

  /// The masters of one tensor of the model, a contiguous part of the weights. Throws `value_error` if it is not.
  template <int Rank>
  View<A, Rank> master(View<T, Rank> const& tensor) const {
    return {master_.data() + offset_of(tensor), tensor.shape()};
  }

  /// Rounds all masters into the weights: after something else than a step has changed them.
  template <class Ctx>
  void publish(Ctx const& ctx) const {
    publish(ctx, weights_);
  }

  /// Rounds the masters of one tensor of the model into it.
  template <class Ctx, int Rank>
  void publish(Ctx const& ctx, View<T, Rank> const& tensor) const {
    Index const offset = offset_of(tensor);
    if constexpr (has_masters)
      parallel_ranges(ctx.threads(), tensor.size(), Index{1} << 14, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) tensor.data()[i] = static_cast<T>(master_(offset + i));
      });
  }

  /// Calls `visit(name, View<A, 1>)` for each array that a checkpoint has to keep beside the weights and `steps()`, and that
  /// resuming reads back in place: "master" where the weights are narrow, "first_moment", "second_moment".
  template <class Visit>
  void for_each_array(Visit&& visit) const {
    if constexpr (has_masters) visit("master", master_);
    visit("first_moment", first_);
    visit("second_moment", second_);
  }

  /// Steps that were applied.
  Index steps() const { return steps_; }

  /// Goes on as after `steps` steps. Throws `value_error` if it is negative.
  void set_steps(Index steps) {
    check_value(steps >= 0, "optimiser", "steps is ", steps, ", not at least 0");
    steps_ = steps;
  }

 private:
  template <int Rank>
  Index offset_of(View<T, Rank> const& tensor) const {
    // As numbers: pointers into different arrays have no order.
    auto const first = reinterpret_cast<std::uintptr_t>(weights_.data()), at = reinterpret_cast<std::uintptr_t>(tensor.data());
    auto const offset = static_cast<Index>((at - first) / sizeof(T));
    check_value(tensor.contiguous() && at >= first && offset + tensor.size() <= weights_.size(), "optimiser", "a tensor of shape ",
                to_string(tensor.shape()), " is no contiguous part of the ", weights_.size(), " weights");
    return offset;
  }

  View<T, 1> weights_;
  std::vector<AdamWSegment> segments_;
  AdamWOptions options_;
  std::unique_ptr<Arena> memory_;
  View<A, 1> master_{}, first_{}, second_{};
  Index steps_ = 0;
};

}  // namespace blackmamba
