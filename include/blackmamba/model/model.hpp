#pragma once
/// \file
/// A network with its weights on a device: `Model<Net, Scalar, Context>`.

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include <blackmamba/core/at_rest.hpp>
#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/model/count.hpp>
#include <blackmamba/model/parameters.hpp>
#include <blackmamba/model/stack.hpp>

namespace blackmamba {

/// What decoding carries from token to token: the states of `batch` sequences, zeros at first, in the memory of a context.
template <class Net, Scalar T, Context Ctx = Reference>
class ModelState {
 public:
  ModelState(typename Net::Dims const& dims, Index batch, Ctx const& ctx = Ctx{})
      : ctx_{ctx}, batch_{batch}, memory_{std::make_unique<Arena>(ctx_.memory())} {
    if (batch < 0) throw value_error(concat("a state of ", batch, " sequences"));
    memory_->reserve(static_cast<std::size_t>(state_bytes<Net, T>(dims, batch)));
    auto const take = [&](auto& view, auto shape) {
      using Element = typename std::remove_reference_t<decltype(view)>::value_type;
      view = memory_->template take_zeros<Element>(shape);
      parts_.push_back({reinterpret_cast<std::byte*>(view.data()), Shape<2>{batch, batch ? view.size() / batch : 0}});
      parts_.back().shape[1] *= static_cast<Index>(sizeof(Element));
    };
    Net::state(views_, dims, batch, take);
  }

  Index batch() const { return batch_; }
  typename Net::template State<T> const& views() const { return views_; }

  /// Back to the beginning of the sequences.
  void reset() {
    for (auto const& part : parts_) set_zero(ctx_, bytes(part));
  }

  /// Every sequence goes on where `one`, a state of a single sequence of the same network, stands.
  void broadcast(ModelState const& one) {
    check_value(one.batch() == 1, "state", "cannot broadcast a state of ", one.batch(), " sequences");
    for (std::size_t i = 0; i < parts_.size(); ++i)
      for (Index b = 0; b < batch_; ++b) copy_within(ctx_, bytes(one.parts_[i])[0], bytes(parts_[i])[b]);
  }

 private:
  struct Part {
    std::byte* data;
    Shape<2> shape;  // sequences, and bytes of each
  };
  static View<std::byte, 2> bytes(Part const& part) { return {part.data, part.shape}; }

  Ctx ctx_;
  Index batch_;
  std::unique_ptr<Arena> memory_;
  typename Net::template State<T> views_{};
  std::vector<Part> parts_;
};

/// A network `Net` with weights stored in `T`, run on `Ctx`.
///
/// The weights are one flat array; the model owns it. It and all that passes are given and leave lies in the memory of the context;
/// on a device passes are queued, and return before they have run. Passes take their temporary memory from the context's arena and
/// allocate nothing once it has grown to its size. One model serves one calling thread at a time.
template <class Net, Scalar T, Context Ctx>
class Model {
 public:
  using network = Net;
  using scalar = T;
  using context = Ctx;
  using Dims = typename Net::Dims;
  using State = ModelState<Net, T, Ctx>;

  /// Weights are zeros: initialise or load them. Throws `value_error` on sizes that no network can have.
  explicit Model(Dims dims, Ctx ctx = Ctx{}) : dims_{checked(std::move(dims))}, ctx_{std::move(ctx)}, weights_{dims_, ctx_} {}

  Dims const& dims() const { return dims_; }
  Ctx const& ctx() const { return ctx_; }
  typename Net::template Params<T> const& params() const { return weights_.params(); }

  /// All weights, flat, in the order of the parameter walk.
  View<T, 1> flat() const { return weights_.flat(); }

  /// Runs a reader over the parameters (see layers/walk.hpp). On a device they come to the host for it, and go back.
  template <class Reader>
  void walk(Reader& reader) {
    weights_.walk(dims_, reader);
  }

  /// The same for a reader that keeps views of elements to read, which are valid until `then()` has been called.
  template <class Reader, class Then>
  void inspect(Reader& reader, Then&& then) {
    weights_.inspect(dims_, reader, then);
  }

  /// The same for a reader that looks at names, shapes and views, and not at what views point to: nothing moves.
  template <class Reader>
  void outline(Reader& reader) {
    weights_.outline(dims_, reader);
  }

  /// Draws the weights as the published model initialises them: the same seed gives the same weights.
  void initialise(std::uint64_t seed) {
    detail::InitialiseReader reader{Random{seed}, Net::body::layers(dims_)};
    walk(reader);
  }

  /// A state for `batch` sequences at their beginning.
  State make_state(Index batch) const { return State{dims_, batch, ctx_}; }

  /// What a forward pass may be given beside its tokens.
  struct Options {
    State* state = nullptr;          ///< sequences go on from it and leave theirs in it: prefill, or a chunk of one
    View<Index const, 1> offsets{};  ///< packed sequences in the one row of the batch
    Tap<T> const* tap = nullptr;     ///< who listens to intermediate tensors
    Mode mode = Mode::inference;
  };

  /// logits (B, L, vocab) of tokens (B, L).
  /// Throws `shape_error` on shapes that disagree, `value_error` on a token outside the vocabulary, naming its place.
  void forward(View<Token const, 2> tokens, View<T, 3> logits, Options const& options = {}) const {
    Index const B = tokens.extent(0), L = tokens.extent(1);
    check_shape("model", "logits", logits, Shape<3>{B, L, dims_.vocab}, "tokens");
    auto const scope = ctx_.scratch().scope();
    auto const y = hidden(tokens, options);
    Net::output(pass(options), dims_, params(), y.rows(), logits.rows());
  }

  /// Only the logits after the last token of each sequence, (B, vocab): what prefill needs. L ≥ 1; not for packed sequences.
  void forward_last(View<Token const, 2> tokens, View<T, 2> logits, Options const& options = {}) const {
    Index const B = tokens.extent(0), L = tokens.extent(1);
    check_value(L >= 1, "model", "a sequence of length 0 has no last token");
    check_value(!options.offsets, "model", "packed sequences have no common last token: use forward");
    check_shape("model", "logits", logits, Shape<2>{B, dims_.vocab}, "tokens");
    auto const scope = ctx_.scratch().scope();
    auto const y = hidden(tokens, options);
    Net::output(pass(options), dims_, params(), y.slice(1, L - 1, 1).rows(), logits);
  }

  /// logits (B, vocab) after one more token of each sequence, tokens (B). The state moves on.
  void step(View<Token const, 1> tokens, View<T, 2> logits, State& state, Tap<T> const* tap = nullptr) const {
    Index const B = tokens.extent(0);
    check_value(state.batch() == B, "model", "a state of ", state.batch(), " sequences cannot take a step of ", B, " tokens");
    check_shape("model", "logits", logits, Shape<2>{B, dims_.vocab}, "tokens");
    auto const scope = ctx_.scratch().scope();
    auto const y = ctx_.scratch().template take<T>(Shape<2>{B, dims_.d_model});
    Options const options{.tap = tap};
    // The first kernel, of the embedding, waits for all that is queued before, and no kernel of a step writes weights.
    [[maybe_unused]] AtRest<Ctx> const weights_are{ctx_};
    Net::hidden_step(pass(options), dims_, params(), tokens, y, state.views());
    Net::output(pass(options), dims_, params(), y, logits);
  }

 private:
  static Dims checked(Dims dims) {
    check_dims(dims);
    return dims;
  }

  Pass<Ctx, T> pass(Options const& options) const {
    return {.ctx = ctx_, .offsets = options.offsets, .mode = options.mode, .tap = options.tap};
  }

  /// The normalised rows that the output reads, in scratch memory of the caller's scope.
  View<T, 3> hidden(View<Token const, 2> tokens, Options const& options) const {
    Index const B = tokens.extent(0), L = tokens.extent(1);
    Index const sequences = options.offsets ? options.offsets.extent(0) - 1 : B;
    if (options.state)
      check_value(options.state->batch() == sequences, "model", "a state of ", options.state->batch(), " sequences cannot serve ",
                  sequences);
    auto const y = ctx_.scratch().template take<T>(Shape<3>{B, L, dims_.d_model});
    Net::hidden(pass(options), dims_, params(), tokens, y, options.state ? &options.state->views() : nullptr);
    return y;
  }

  Dims dims_;
  Ctx ctx_;
  Weights<Net, T, Ctx> weights_;
};

}  // namespace blackmamba
