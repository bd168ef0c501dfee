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

/// Reads every tensor of the walk from a file, and keeps account of which were read and which were not there.
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

  /// Throws unless the file holds exactly what the network has, but for a tied output stored twice.
  void finish(bool tied) const {
    if (!missing_.empty())
      throw file_error(concat(file_.path().string(), ": ", listed(missing_), missing_.size() == 1 ? " is" : " are",
                              " missing: the configuration asks for ", missing_.size() == 1 ? "it" : "them"));
    std::vector<std::string> extra;
    for (auto const& found : file_.names())
      if (!read_.contains(found) && !(tied && found == naming_.tied_output())) extra.push_back(found);
    if (!extra.empty())
      throw file_error(concat(file_.path().string(), ": ", listed(extra), extra.size() == 1 ? " is" : " are",
                              " not part of the network that the configuration describes"));
  }

 private:
  template <int Rank>
  void read(std::string const& published, View<T, Rank> view) {
    auto const name = naming_.in_file(published);
    if (!file_.contains(name)) {
      missing_.push_back(name);
      return;
    }
    read_.insert(name);
    if constexpr (Rank == 2)
      if (name.ends_with("conv1d.weight"))  // a depthwise convolution has one input channel a group: (channels, 1, taps)
        return file_.read_into(name, view.reshaped(Shape<3>{view.extent(0), 1, view.extent(1)}), threads_);
    file_.read_into(name, view, threads_);
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
  int threads_;
  std::set<std::string> read_;
  std::vector<std::string> missing_;
};

}  // namespace detail

/// Fills the model's weights from a file, each element rounded at most once. Throws `file_error` on the first tensor of another
/// shape, and on missing or extra tensors, which it lists.
template <class Net, Scalar T, Context Ctx>
void load_weights(Model<Net, T, Ctx>& model, TensorFile const& file, Naming naming) {
  detail::LoadReader<T> reader{file, naming, model.ctx().threads()};
  model.walk(reader);
  reader.finish(model.dims().tied);
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
    Model<Net, T, Ctx> model{dims, ctx};
    load_weights(model, file, Naming{config.family});
    return use(model);
  });
}

}  // namespace blackmamba::io
