#pragma once
/// \file
/// Bodies of a network: a pattern of blocks repeated `depth` times, or a run-time sequence over compile-time alternatives.
///
/// A body offers, for its own `Dims` type, `Params<T>`, `State<T>` and
///   parameters(p, dims, visit)   the walk, under the names "layers.0", "layers.1", …
///   state(s, dims, batch, visit)
///   layers(dims)                 number of blocks
///   forward / step               all blocks in order
///   backward                     all blocks in reverse, after a forward pass that saved
///   mixtures(dims, p, saved, v)  v(layer, Type<mixture>, dims, its parameters, what it saved), for routers and telemetry
///   describe(dims, visit)        visit(layer, block type, dims of the block), for counts and tables

#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>

namespace blackmamba {

namespace detail {

/// `B::forward`; a block that cannot learn saves nothing.
template <class B, class Ctx, Scalar T>
void block_forward(Pass<Ctx, T> const& pass, Dims const& d, typename B::template Params<T> const& p, View<T, 3> hidden,
                   View<accumulator_t<T>, 3> residual, typename B::template State<T> const* state, saved_t<B, T>* saved) {
  if constexpr (HasSaved<B>)
    B::forward(pass, d, p, hidden, residual, state, saved);
  else
    B::forward(pass, d, p, hidden, residual, state);
}

/// `B::mixtures`, where there is one.
template <class B>
void block_mixtures(Dims const& d, auto& p, auto& saved, auto& visit) {
  if constexpr (requires { B::mixtures(d, p, saved, visit); }) B::mixtures(d, p, saved, visit);
}

}  // namespace detail

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
  template <class T>
  using Saved = std::vector<std::tuple<saved_t<Blocks, T>...>>;

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
                      Output<accumulator_t<T>, 3> residual, State<T> const* state, Saved<T>* saved = nullptr) {
    if (saved) saved->resize(static_cast<std::size_t>(d.depth));
    each_block(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      pass.layer = layer;
      detail::block_forward<Block<I>>(pass, d, std::get<I>(p[repetition]), hidden, residual,
                                      state ? &std::get<I>((*state)[repetition]) : nullptr,
                                      saved ? &std::get<I>((*saved)[repetition]) : nullptr);
    });
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Saved<T>& saved,
                       Output<accumulator_t<T>, 3> d_residual, Params<accumulator_t<T>> const& g) {
    each_block_reversed(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      pass.layer = layer;
      Block<I>::backward(pass, d, std::get<I>(p[repetition]), std::get<I>(saved[repetition]), d_residual,
                         std::get<I>(g[repetition]));
    });
  }

  static void mixtures(Dims const& d, auto& p, auto& saved, auto&& visit) {
    each_block(d, [&]<std::size_t I>(std::size_t repetition, Index layer) {
      auto const here = [&](auto&&... parts) { visit(layer, parts...); };
      detail::block_mixtures<Block<I>>(d, std::get<I>(p[repetition]), std::get<I>(saved[repetition]), here);
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

  /// visit<I>(repetition, layer) for every block, the last one first.
  static constexpr void each_block_reversed(Dims const& d, auto&& visit) {
    constexpr std::size_t last = sizeof...(Blocks) - 1;
    for (Index repetition = d.depth; repetition-- > 0;) [&]<std::size_t... I>(std::index_sequence<I...>) {
        (visit.template operator()<last - I>(static_cast<std::size_t>(repetition),
                                             repetition * period + static_cast<Index>(last - I)),
         ...);
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
  template <class T>
  using Saved = std::vector<std::variant<saved_t<Blocks, T>...>>;

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
                      Output<accumulator_t<T>, 3> residual, State<T> const* state, Saved<T>* saved = nullptr) {
    if (saved) saved->resize(d.layers.size());
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      pass.layer = static_cast<Index>(layer);
      if (saved && (*saved)[layer].index() != I) (*saved)[layer].template emplace<I>();
      detail::block_forward<Block<I>>(pass, dims, std::get<I>(p[layer]), hidden, residual,
                                      state ? &std::get<I>((*state)[layer]) : nullptr,
                                      saved ? &std::get<I>((*saved)[layer]) : nullptr);
    });
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Saved<T>& saved,
                       Output<accumulator_t<T>, 3> d_residual, Params<accumulator_t<T>> const& g) {
    for (std::size_t layer = d.layers.size(); layer-- > 0;)
      visit_block(d, layer, [&]<std::size_t I>(std::size_t, blackmamba::Dims const& dims) {
        pass.layer = static_cast<Index>(layer);
        Block<I>::backward(pass, dims, std::get<I>(p[layer]), std::get<I>(saved[layer]), d_residual, std::get<I>(g[layer]));
      });
  }

  static void mixtures(Dims const& d, auto& p, auto& saved, auto&& visit) {
    each_block(d, [&]<std::size_t I>(std::size_t layer, blackmamba::Dims const& dims) {
      auto const here = [&](auto&&... parts) { visit(static_cast<Index>(layer), parts...); };
      detail::block_mixtures<Block<I>>(dims, std::get<I>(p[layer]), std::get<I>(saved[layer]), here);
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
    for (std::size_t layer = 0; layer < d.layers.size(); ++layer) visit_block(d, layer, visit);
  }

  static constexpr void visit_block(Dims const& d, std::size_t layer, auto&& visit) {
    auto const& entry = d.layers[layer];
    if (entry.alternative >= sizeof...(Blocks))
      throw value_error(concat("layer ", layer, " is alternative ", entry.alternative, " of ", sizeof...(Blocks)));
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((I == entry.alternative ? visit.template operator()<I>(layer, entry.dims) : void()), ...);
    }
    (std::index_sequence_for<Blocks...>{});
  }
};

}  // namespace blackmamba
