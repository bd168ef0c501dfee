#pragma once
/// \file
/// Bodies of a network: a pattern of blocks repeated `depth` times, or a run-time sequence over compile-time alternatives.
///
/// A body offers, for its own `Dims` type, `Params<T>`, `State<T>` and
///   parameters(p, dims, visit)   the walk, under the names "layers.0", "layers.1", …
///   state(s, dims, batch, visit)
///   layers(dims)                 number of blocks
///   forward / step               all blocks in order
///   describe(dims, visit)        visit(layer, block type, dims of the block), for counts and tables

#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>

namespace blackmamba {

/// Names a type, to hand it to a generic lambda.
template <class B>
struct Type {
  using type = B;
};

/// `Blocks…` in order, `dims.depth` times.
template <class... Blocks>
struct Repeat {
  static_assert(sizeof...(Blocks) >= 1);
  using Dims = blackmamba::Dims;
  static constexpr Index period = sizeof...(Blocks);

  template <class T>
  using Params = std::vector<std::tuple<typename Blocks::template Params<T>...>>;
  template <class T>
  using State = std::vector<std::tuple<typename Blocks::template State<T>...>>;

  static constexpr Index layers(Dims const& d) { return d.depth * period; }

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    p.resize(static_cast<std::size_t>(d.depth));
    each_block(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      visit.enter("layers", layer);
      Block<I>::parameters(std::get<I>(p[repetition]), d, visit);
      visit.leave();
    });
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    s.resize(static_cast<std::size_t>(d.depth));
    each_block(d,
               [&]<std::size_t I>(std::size_t repetition, Index) { Block<I>::state(std::get<I>(s[repetition]), d, batch, visit); });
  }

  static constexpr void describe(Dims const& d, auto&& visit) {
    each_block(d, [&]<std::size_t I>(std::size_t, Index layer) { visit(layer, Type<Block<I>>{}, d); });
  }

  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state) {
    each_block(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      pass.layer = layer;
      Block<I>::forward(pass, d, std::get<I>(p[repetition]), hidden, residual,
                        state ? &std::get<I>((*state)[repetition]) : nullptr);
    });
  }

  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Output<T, 2> hidden, Output<accumulator_t<T>, 2> residual,
                   State<T> const& state) {
    each_block(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      pass.layer = layer;
      Block<I>::step(pass, d, std::get<I>(p[repetition]), hidden, residual, std::get<I>(state[repetition]));
    });
  }

 private:
  template <std::size_t I>
  using Block = std::tuple_element_t<I, std::tuple<Blocks...>>;

  /// visit<I>(repetition, layer) for every block in order.
  static constexpr void each_block(Dims const& d, auto&& visit) {
    for (Index repetition = 0; repetition < d.depth; ++repetition) [&]<std::size_t... I>(std::index_sequence<I...>) {
        (visit.template operator()<I>(static_cast<std::size_t>(repetition), repetition * period + static_cast<Index>(I)), ...);
      }
    (std::index_sequence_for<Blocks...>{});
  }
};

/// Sizes of a `Mixed` body: what all layers share, and for each layer which alternative it is and its own sizes.
struct MixedDims : Dims {
  struct Layer {
    std::size_t alternative = 0;  ///< index into the body's blocks
    Dims dims{};                  ///< its sizes: a mixture has its own number of experts
  };
  std::vector<Layer> layers{};
};

/// As for `Dims`, and for every layer's.
constexpr void check_dims(MixedDims const& d) {
  check_dims(static_cast<Dims const&>(d));
  for (auto const& layer : d.layers) check_dims(layer.dims);
}

/// A run-time sequence over compile-time alternatives: for checkpoints whose layers follow no repeat.
template <class... Blocks>
struct Mixed {
  static_assert(sizeof...(Blocks) >= 1);
  using Dims = MixedDims;

  template <class T>
  using Params = std::vector<std::variant<typename Blocks::template Params<T>...>>;
  template <class T>
  using State = std::vector<std::variant<typename Blocks::template State<T>...>>;

  static constexpr Index layers(Dims const& d) { return static_cast<Index>(d.layers.size()); }

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    p.resize(d.layers.size());
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      visit.enter("layers", static_cast<Index>(layer));
      if (p[layer].index() != I) p[layer].template emplace<I>();
      Block<I>::parameters(std::get<I>(p[layer]), dims, visit);
      visit.leave();
    });
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    s.resize(d.layers.size());
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      if (s[layer].index() != I) s[layer].template emplace<I>();
      Block<I>::state(std::get<I>(s[layer]), dims, batch, visit);
    });
  }

  static constexpr void describe(Dims const& d, auto&& visit) {
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      visit(static_cast<Index>(layer), Type<Block<I>>{}, dims);
    });
  }

  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state) {
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      pass.layer = static_cast<Index>(layer);
      Block<I>::forward(pass, dims, std::get<I>(p[layer]), hidden, residual, state ? &std::get<I>((*state)[layer]) : nullptr);
    });
  }

  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Output<T, 2> hidden, Output<accumulator_t<T>, 2> residual,
                   State<T> const& state) {
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      pass.layer = static_cast<Index>(layer);
      Block<I>::step(pass, dims, std::get<I>(p[layer]), hidden, residual, std::get<I>(state[layer]));
    });
  }

 private:
  template <std::size_t I>
  using Block = std::tuple_element_t<I, std::tuple<Blocks...>>;

  /// visit<I>(layer, dims of the layer) for every layer in order, I being its alternative.
  static constexpr void each_block(Dims const& d, auto&& visit) {
    for (std::size_t layer = 0; layer < d.layers.size(); ++layer) {
      auto const& entry = d.layers[layer];
      if (entry.alternative >= sizeof...(Blocks))
        throw value_error(concat("layer ", layer, " is alternative ", entry.alternative, " of ", sizeof...(Blocks)));
      [&]<std::size_t... I>(std::index_sequence<I...>) {
        ((I == entry.alternative ? visit.template operator()<I>(layer, entry.dims) : void()), ...);
      }
      (std::index_sequence_for<Blocks...>{});
    }
  }
};

}  // namespace blackmamba
