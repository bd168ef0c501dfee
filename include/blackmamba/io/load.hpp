#pragma once
/// \file
/// From a folder to a model: the configuration says which network it is, the walk of its parameters says what to read where.

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <blackmamba/io/config.hpp>
#include <blackmamba/io/tensor_file.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>

namespace blackmamba::io {

/// How a family of checkpoints spells what the walk calls by its published name.
class Naming {
 public:
  explicit Naming(ModelConfig::Family family) : transformers_{family != ModelConfig::Family::blackmamba} {}

  std::string in_file(std::string name) const {
    if (!transformers_) return name;
    static constexpr std::pair<char const*, char const*> beginnings[]{
        {"embedding.word_embeddings.", "backbone.embeddings."},
        {"decoder.layers.", "backbone.layers."},
        {"decoder.final_layernorm.", "backbone.norm_f."},
        {"output_layer.", "lm_head."},
    };
    for (auto const& [published, theirs] : beginnings)
      if (name.starts_with(published)) return theirs + name.substr(std::string_view{published}.size());
    return name;
  }

  /// The output projection, which a checkpoint with tied weights may hold a second time.
  std::string tied_output() const { return in_file("output_layer.weight"); }

 private:
  bool transformers_;
};

namespace detail {

/// A tensor's name and shape in the file. A depthwise convolution has one input channel a group there: (channels, 1, taps).
template <int Rank, class Use>
void as_in_file(std::string const& name, Shape<Rank> const& shape, Use&& use) {
  if constexpr (Rank == 2)
    if (name.ends_with("conv1d.weight")) return use(Shape<3>{shape[0], 1, shape[1]});
  use(shape);
}

/// Compares every tensor of the walk with what the file holds, before there is memory for any of them: a configuration may ask for
/// more than there is, and a file that holds as much is as large.
class CheckReader : public NamedWalk {
 public:
  CheckReader(TensorFile const& file, Naming naming) : file_{file}, naming_{naming} {}

  template <int Rank>
  void operator()(char const* last, auto&, Shape<Rank> const& shape, Init, Decay) {
    check(name(last), shape);
  }
  template <int Rank>
  void experts(char const* prefix, char const* last, auto&, Shape<Rank> const& shape, Index, Init, Decay) {
    Shape<Rank - 1> one;
    for (int i = 1; i < Rank; ++i) one[i - 1] = shape[i];
    for (Index e = 0; e < shape[0]; ++e) check(expert_name(prefix, e, last), one);
  }

  /// Throws unless the file holds exactly what the network has, but for a tied output stored twice.
  void finish(bool tied) const {
    if (!missing_.empty())
      throw file_error(concat(file_.path().string(), ": ", listed(missing_), missing_.size() == 1 ? " is" : " are",
                              " missing: the configuration asks for ", missing_.size() == 1 ? "it" : "them"));
    std::vector<std::string> extra;
    for (auto const& found : file_.names())
      if (!found_.contains(found) && !(tied && found == naming_.tied_output())) extra.push_back(found);
    if (!extra.empty())
      throw file_error(concat(file_.path().string(), ": ", listed(extra), extra.size() == 1 ? " is" : " are",
                              " not part of the network that the configuration describes"));
  }

 private:
  template <int Rank>
  void check(std::string const& published, Shape<Rank> const& shape) {
    auto const name = naming_.in_file(published);
    if (!file_.contains(name)) {
      missing_.push_back(name);
      return;
    }
    found_.insert(name);
    as_in_file(name, shape, [&](auto const& wanted) { file_.expect(name, wanted); });
  }

  /// "tensors 'a', 'b' and 7 more"
  static std::string listed(std::vector<std::string> const& names) {
    std::size_t const shown = std::min<std::size_t>(names.size(), 3);
    std::string out = names.size() == 1 ? "tensor " : "tensors ";
    for (std::size_t i = 0; i < shown; ++i) out += concat(i ? ", " : "", "'", names[i], "'");
    if (names.size() > shown) out += concat(" and ", names.size() - shown, " more");
    return out;
  }

  TensorFile const& file_;
  Naming naming_;
  std::set<std::string> found_;
  std::vector<std::string> missing_;
};

/// Reads every tensor of the walk from a file that holds them all.
template <class T>
class LoadReader : public NamedWalk {
 public:
  LoadReader(TensorFile const& file, Naming naming, int threads) : file_{file}, naming_{naming}, threads_{threads} {}

  template <int Rank>
  void operator()(char const* last, View<T, Rank>& view, Shape<Rank> const&, Init, Decay) {
    read(name(last), view);
  }

  /// Expert e of the stacked tensor lies in the file as a tensor of its own.
  template <int Rank>
  void experts(char const* prefix, char const* last, View<T, Rank>& view, Shape<Rank> const& shape, Index, Init, Decay) {
    for (Index e = 0; e < shape[0]; ++e) read(expert_name(prefix, e, last), view[e]);
  }

 private:
  template <int Rank>
  void read(std::string const& published, View<T, Rank> view) {
    auto const name = naming_.in_file(published);
    as_in_file(name, view.shape(), [&](auto const& shape) { file_.read_into(name, view.reshaped(shape), threads_); });
  }

  TensorFile const& file_;
  Naming naming_;
  int threads_;
};

}  // namespace detail

/// Throws `file_error` on the first tensor of another shape than the network's, and on missing or extra tensors, which it lists.
/// Allocates nothing of the network's size: ask before there is a model.
template <class Net>
void check_weights(typename Net::Dims const& dims, TensorFile const& file, Naming naming) {
  typename Net::template Params<float> params{};
  detail::CheckReader reader{file, naming};
  Net::parameters(params, dims, reader);
  reader.finish(dims.tied);
}

/// Fills the model's weights from a file, each element rounded at most once. Throws what `check_weights` throws.
template <class Net, Scalar T, Context Ctx>
void load_weights(Model<Net, T, Ctx>& model, TensorFile const& file, Naming naming) {
  check_weights<Net>(model.dims(), file, naming);
  constexpr bool on_host = std::derived_from<Ctx, Reference>;  // elsewhere the host has nothing else to do
  detail::LoadReader<T> reader{file, naming, on_host ? model.ctx().threads() : available_threads()};
  model.walk(reader);
}

/// The sizes of a published mixture, layer by layer.
inline MixedDims mixed_dims(ModelConfig const& config) {
  MixedDims out;
  static_cast<Dims&>(out) = config.dims;
  out.gated = config.gated;
  out.activation = config.activation;
  for (LayerSpec const& spec : config.layers) {
    auto const alternative = [&] {
      switch (spec.feed_forward) {
        case FeedForward::none:
          return Alternative::mamba;
        case FeedForward::dense:
          return spec.mamba ? Alternative::mamba_and_mlp : Alternative::mlp;
        case FeedForward::mixture:
          return spec.mamba ? Alternative::mamba_and_mixture : Alternative::mixture;
      }
      throw value_error("a layer of no known kind");
    }();
    Dims dims = out;
    dims.n_experts = spec.feed_forward == FeedForward::mixture ? spec.experts : 0;
    out.layers.push_back({static_cast<std::size_t>(alternative), dims});
  }
  return out;
}

/// Calls `use(type, dims)` with the network that a configuration describes: `Type<Net>` and its sizes.
template <class Use>
decltype(auto) with_network(ModelConfig const& config, Use&& use) {
  using Family = ModelConfig::Family;
  if (config.family == Family::mamba) return use(Type<DenseMamba>{}, config.dims);
  if (config.family == Family::mamba2) return use(Type<DenseMamba2>{}, config.dims);
  return use(Type<PublishedMixture<>>{}, mixed_dims(config));
}

/// Opens the checkpoint in `folder` (`config.json` beside `model.safetensors`, its shards, or `pytorch_model.bin`), builds the
/// network that it describes with weights in `T` on `ctx`, and calls `use(model)`.
template <Scalar T, Context Ctx, class Use>
decltype(auto) with_model(std::filesystem::path const& folder, Ctx const& ctx, Use&& use) {
  ModelConfig const config = read_config(folder);
  TensorFile const file = TensorFile::open(folder);
  return with_network(config, [&]<class Net>(Type<Net>, auto const& dims) -> decltype(auto) {
    check_weights<Net>(dims, file, Naming{config.family});
    Model<Net, T, Ctx> model{dims, ctx};
    load_weights(model, file, Naming{config.family});
    return use(model);
  });
}

}  // namespace blackmamba::io
