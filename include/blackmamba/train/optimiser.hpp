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

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/model/parameters.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/convert/convert.hpp>
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
/// \param model  anything with `outline(reader)`, or with `walk(reader)`
template <class Model>
std::vector<AdamWSegment> parameter_segments(Model& model) {
  detail::SegmentReader reader;
  if constexpr (requires { model.outline(reader); })
    model.outline(reader);
  else
    model.walk(reader);
  return std::move(reader.segments);
}

/// What a step did.
struct AdamWResult {
  double gradient_norm = 0;  ///< of the whole gradient, scaled but not clipped
  double clip_factor = 1;    ///< what clipping multiplied it by
  bool applied = false;      ///< false: the norm is not finite or its square overflows A, and nothing was changed
};

/// The optimiser of weights stored in `T`, a flat array in the memory of a context that it is bound to, where masters and moments
/// lie too; everything but the weights is in A = accumulator_t<T>.
///
/// Narrow weights get masters in A, of which they are the rounded copies; otherwise the weights are their own masters. Nothing is
/// allocated after construction but the scratch memory of the gradient's norm. Deterministic: same gradients, same bits, on any
/// number of threads.
///
///   AdamW<T> on_a_host{weights, segments, options};           // any context of the host may step it
///   auto const result = on_a_host.step(ctx, gradients, rate, scale);
///
///   AdamW<T, Cuda> on_a_device{ctx, weights, segments, options};
///   on_a_device.step(ctx, gradients, rate, scale);            // queued, does not wait: what it did is on the device
///   auto const result = on_a_device.report();                 // waits
///
/// On every context `step` is `request(ctx, rate, scale)` and then `queue(ctx, gradients)`, which can be recorded as a CUDA graph:
/// a replay takes the rate and the scale of the last request, counts its own steps, and leaves out the one whose gradient is not
/// finite. `report`, `steps`, `set_steps` and `restart` are not for a graph.
template <Scalar T, Context Ctx = Reference>
class AdamW {
 public:
  using A = accumulator_t<T>;
  static constexpr bool has_masters = !std::is_same_v<T, A>;
  static constexpr bool on_host = std::derived_from<Ctx, Reference>;

  /// Starts from the weights as they are: see `restart`. The array is contiguous and must outlive this; `segments` say what of it
  /// is trained and are those of `parameter_segments`. Throws `value_error` on options that make no sense.
  AdamW(Ctx const& ctx, View<T, 1> weights, std::vector<AdamWSegment> segments, AdamWOptions const& options = {})
      : ctx_{ctx},
        weights_{weights},
        segments_{std::move(segments)},
        options_{options},
        scalars_{ctx, Shape<1>{1}},
        sum_{ctx, Shape<1>{1}},
        memory_{std::make_unique<Arena>(ctx_.memory())} {
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

  /// The same on a context of the host.
  AdamW(View<T, 1> weights, std::vector<AdamWSegment> segments, AdamWOptions const& options = {}) requires on_host
      : AdamW{Ctx{}, weights, std::move(segments), options} {}

  /// Bytes that masters and moments of `elements` weights take.
  static constexpr Index memory_bytes(Index elements) {
    auto const unit = static_cast<Index>(Arena::alignment);
    Index const array = ceil_div(elements * static_cast<Index>(sizeof(A)), unit) * unit;
    return (has_masters ? 3 : 2) * (array > 0 ? array : unit);
  }

  AdamWOptions const& options() const { return options_; }

  /// Begins anew: masters are the weights as they stand now, moments zeros, no step done.
  void restart() {
    if constexpr (has_masters) convert(ctx_, ConvertArgs<T, A>{.x = row(View<T const, 1>{weights_}), .y = row(master_)});
    set_zero(ctx_, first_), set_zero(ctx_, second_);
    set_steps(0);
  }

  /// One step of `adamw` along `gradients` (n) · gradient_scale, which is 1 / (passes that were added up) say, clipped to the norm
  /// `options().clip`; leaves the weights rounded. A gradient that is not finite, or so long that its square overflows A, changes
  /// nothing and is not counted as a step: the result says so, which contexts of the host return and others leave for `report()`.
  /// Throws `shape_error` on gradients of another length, `value_error` on a rate that is negative or not finite or on a scale that
  /// is not above 0.
  template <class C>
  auto step(C const& ctx, std::type_identity_t<View<A const, 1>> gradients, double learning_rate, double gradient_scale = 1) {
    check_gradients(gradients);
    request(ctx, learning_rate, gradient_scale);
    queue(ctx, gradients);
    if constexpr (on_host) return report();
  }

  /// The same at `options().learning_rate`.
  template <class C>
  auto step(C const& ctx, std::type_identity_t<View<A const, 1>> gradients) {
    return step(ctx, gradients, options_.learning_rate);
  }

  /// What the steps that are queued from now on are asked to do. Throws like `step`.
  template <class C>
  void request(C const& ctx, double learning_rate, double gradient_scale = 1) {
    check_value(gradient_scale > 0, "optimiser", "gradient_scale is ", gradient_scale, ", not above 0");
    check_value(learning_rate >= 0 && std::isfinite(learning_rate), "optimiser", "learning_rate is ", learning_rate);
    adamw_request(ctx,
                  AdamWRequestArgs{.learning_rate = learning_rate, .gradient_scale = gradient_scale, .scalars = scalars_.view()});
  }

  /// A step as the last `request` has it. Throws `shape_error` on gradients of another length.
  template <class C>
  void queue(C const& ctx, std::type_identity_t<View<A const, 1>> gradients) {
    check_gradients(gradients);
    sum_squares(ctx, SumSquaresArgs<A>{.x = gradients, .sum = sum_.view()});
    // A square that overflows would leave an infinite moment, which no later gradient mends.
    double const longest = std::sqrt(static_cast<double>(std::numeric_limits<A>::max()));
    adamw_clip(ctx, AdamWClipArgs<sum_squares_t<A>>{
                        .sum = sum_.view(), .clip = options_.clip, .longest = longest, .scalars = scalars_.view()});
    adamw(ctx, AdamWArgs<T>{.master = master_,
                            .gradient = gradients,
                            .first = first_,
                            .second = second_,
                            .weights = has_masters ? weights_ : View<T, 1>{},
                            .segments = {segments_.data(), Shape<1>{static_cast<Index>(segments_.size())}},
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .epsilon = options_.epsilon,
                            .weight_decay = options_.weight_decay,
                            .scalars = scalars_.view()});
  }

  /// What the last step did, once it is done.
  AdamWResult report() const {
    AdamWScalars const last = scalars();
    return {.gradient_norm = last.gradient_norm, .clip_factor = last.clip_factor, .applied = last.applied};
  }

  /// The weights in full precision, (n).
  View<A, 1> master() const { return master_; }

  /// The masters of one tensor of the model, a contiguous part of the weights. Throws `value_error` if it is not.
  template <int Rank>
  View<A, Rank> master(View<T, Rank> const& tensor) const {
    return {master_.data() + offset_of(tensor), tensor.shape()};
  }

  /// Rounds all masters into the weights: after something else than a step has changed them.
  template <class C>
  void publish(C const& ctx) const {
    publish(ctx, weights_);
  }

  /// Rounds the masters of one tensor of the model into it.
  template <class C, int Rank>
  void publish(C const& ctx, View<T, Rank> const& tensor) const {
    Index const offset = offset_of(tensor);
    if constexpr (has_masters && on_host)
      parallel_ranges(ctx.threads(), tensor.size(), Index{1} << 14, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) tensor.data()[i] = static_cast<T>(master_(offset + i));
      });
    else if constexpr (has_masters)
      convert(ctx, ConvertArgs<A, T>{.x = row(View<A const, 1>{master_.slice(0, offset, tensor.size())}),
                                     .y = row(View<T, 1>{tensor.data(), Shape<1>{tensor.size()}})});
  }

  /// Calls `visit(name, View<A, 1>)` for each array that a checkpoint has to keep beside the weights and `steps()`, and that
  /// resuming reads back in place: "master" where the weights are narrow, "first_moment", "second_moment". They lie in the memory
  /// of the context: `download` and `upload` take them to the host and back.
  template <class Visit>
  void for_each_array(Visit&& visit) const {
    if constexpr (has_masters) visit("master", master_);
    visit("first_moment", first_);
    visit("second_moment", second_);
  }

  /// Steps that were applied, once all that are queued are done.
  Index steps() const { return scalars().steps; }

  /// Goes on as after `steps` steps. Throws `value_error` if it is negative.
  void set_steps(Index steps) {
    check_value(steps >= 0, "optimiser", "steps is ", steps, ", not at least 0");
    Tensor<AdamWScalars, 1> scalars{Shape<1>{1}};
    scalars(0) = {.steps = steps};
    upload(ctx_, scalars.view(), scalars_.view());
  }

 private:
  template <class U>
  static View<U, 2> row(View<U, 1> flat) {
    return flat.reshaped(Shape<2>{1, flat.extent(0)});
  }

  void check_gradients(View<A const, 1> gradients) const {
    check_shape("optimiser", "gradients", gradients, weights_.shape(), "weights");
  }

  AdamWScalars scalars() const {
    if constexpr (on_host) {
      return scalars_.view()(0);
    } else {
      auto const copy = download(ctx_, scalars_.view());
      return copy(0);
    }
  }

  template <int Rank>
  Index offset_of(View<T, Rank> const& tensor) const {
    // As numbers: pointers into different arrays have no order.
    auto const first = reinterpret_cast<std::uintptr_t>(weights_.data()), at = reinterpret_cast<std::uintptr_t>(tensor.data());
    auto const offset = static_cast<Index>((at - first) / sizeof(T));
    check_value(tensor.contiguous() && at >= first && offset + tensor.size() <= weights_.size(), "optimiser", "a tensor of shape ",
                to_string(tensor.shape()), " is no contiguous part of the ", weights_.size(), " weights");
    return offset;
  }

  Ctx ctx_;
  View<T, 1> weights_;
  std::vector<AdamWSegment> segments_;
  AdamWOptions options_;
  TensorOn<Ctx, AdamWScalars, 1> scalars_;
  TensorOn<Ctx, sum_squares_t<A>, 1> sum_;
  std::unique_ptr<Arena> memory_;
  View<A, 1> master_{}, first_{}, second_{};
};

}  // namespace blackmamba
