#pragma once
/// \file
/// Readers of the parameter walk that every model uses: binding to one flat array, and initialisation.

#include <cmath>
#include <memory>

#include <blackmamba/core/arena.hpp>
#include <blackmamba/core/context.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/model/count.hpp>

namespace blackmamba {

namespace detail {

/// Every tensor starts at a multiple of this many elements, so rows stay aligned whatever stands before them.
inline constexpr Index parameter_alignment = 64;

constexpr Index padded(Index elements) { return ceil_div(elements, parameter_alignment) * parameter_alignment; }

struct FlatSizeReader : NamelessWalk {
  Index elements = 0;
  constexpr void operator()(char const*, auto&, auto shape, Init, Decay) {
    elements = add_parameters(elements, padded(add_parameters(0, element_count(shape))));
  }
  constexpr void experts(char const*, char const* name, auto& view, auto shape, Index, Init init, Decay decay) {
    (*this)(name, view, shape, init, decay);
  }
};

template <class T>
struct BindReader : NamelessWalk {
  T* next;
  explicit BindReader(T* first) : next{first} {}

  template <int Rank>
  void operator()(char const*, View<T, Rank>& view, Shape<Rank> shape, Init, Decay) {
    view = View<T, Rank>{next, shape};
    next += padded(element_count(shape));
  }
  template <int Rank>
  void experts(char const*, char const* name, View<T, Rank>& view, Shape<Rank> shape, Index, Init init, Decay decay) {
    (*this)(name, view, shape, init, decay);
  }
};

/// Draws every tensor from its own stream, numbered by its place in the walk, so threads do not matter.
struct InitialiseReader : NamelessWalk {
  Random random;
  Index layers;
  std::uint64_t tensor = 0;

  InitialiseReader(Random r, Index n_layers) : random{r}, layers{n_layers < 1 ? 1 : n_layers} {}

  template <class T, int Rank>
  void operator()(char const*, View<T, Rank>& view, Shape<Rank> shape, Init init, Decay) {
    Random const stream = random.split(tensor++);
    Index const fan_in = shape[Rank - 1];
    double const bound = 1 / std::sqrt(static_cast<double>(fan_in > 0 ? fan_in : 1));
    auto const fill = [&](auto&& value) {
      parallel_ranges(available_threads(), view.size(), Index{1} << 16, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i)
          view.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(value(static_cast<std::uint64_t>(i))));
      });
    };
    switch (init) {
      case Init::zeros:
        return fill([](auto) { return 0.0; });
      case Init::ones:
        return fill([](auto) { return 1.0; });
      case Init::embedding:
        return fill([&](auto i) { return 0.02 * stream.normal(i); });
      case Init::linear:
      case Init::step_weight:
        return fill([&](auto i) { return stream.uniform(i, -bound, bound); });
      case Init::residual:
        return fill([&, b = bound / std::sqrt(static_cast<double>(layers))](auto i) { return stream.uniform(i, -b, b); });
      case Init::step_bias:
        return fill([&](auto i) {
          double const dt = 0.001 * std::pow(100.0, stream.uniform(i));
          return dt + std::log(-std::expm1(-dt));
        });
      case Init::s4d_log:
        return fill([&](auto i) { return std::log(1.0 + static_cast<double>(i % static_cast<std::uint64_t>(fan_in))); });
    }
  }
  template <class T, int Rank>
  void experts(char const*, char const* name, View<T, Rank>& view, Shape<Rank> shape, Index, Init init, Decay decay) {
    (*this)(name, view, shape, init, decay);
  }
};

}  // namespace detail

/// The parameters of a network as one flat array in the order of the walk, and views of each, in the memory of a context.
template <class Net, Scalar T, Context Ctx = Reference>
class Weights {
 public:
  explicit Weights(typename Net::Dims const& dims, Ctx const& ctx = Ctx{})
      : ctx_{ctx}, memory_{std::make_unique<Arena>(ctx_.memory())} {
    detail::FlatSizeReader size;
    Net::parameters(params_, dims, size);
    flat_ = memory_->template take_zeros<T>(Shape<1>{size.elements});
    detail::BindReader<T> bind{flat_.data()};
    Net::parameters(params_, dims, bind);
  }

  typename Net::template Params<T> const& params() const { return params_; }
  View<T, 1> flat() const { return flat_; }

  /// Runs a reader that looks at names, shapes and views, and not at what views point to.
  template <class Reader>
  void outline(typename Net::Dims const& dims, Reader& reader) {
    Net::parameters(params_, dims, reader);
  }

  /// Runs a reader that keeps views of elements to read, and `then` while they are valid: on a device, views of a copy on the host.
  template <class Reader, class Then>
  void inspect(typename Net::Dims const& dims, Reader& reader, Then&& then) {
    if constexpr (std::derived_from<Ctx, Reference>) {
      outline(dims, reader);
      then();
    } else {
      Weights<Net, T> on_host{dims};
      download(ctx_, flat_, on_host.flat());
      on_host.outline(dims, reader);
      then();
    }
  }

  /// Runs a reader that may read and write all elements. From a device they come to the host for it, and go back.
  template <class Reader>
  void walk(typename Net::Dims const& dims, Reader& reader) {
    if constexpr (std::derived_from<Ctx, Reference>) {
      outline(dims, reader);
    } else {
      Weights<Net, T> on_host{dims};
      download(ctx_, flat_, on_host.flat());
      on_host.outline(dims, reader);
      upload(ctx_, on_host.flat(), flat_);
    }
  }

 private:
  Ctx ctx_;
  std::unique_ptr<Arena> memory_;
  View<T, 1> flat_{};
  typename Net::template Params<T> params_{};
};

}  // namespace blackmamba
