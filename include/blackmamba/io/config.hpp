#pragma once
/// \file
/// What a network is, as `config.json` says it: the published BlackMamba form, and Mamba and Mamba-2 as `transformers` saves them.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <blackmamba/io/atomic_file.hpp>
#include <blackmamba/io/config_reader.hpp>
#include <blackmamba/io/config_router.hpp>
#include <blackmamba/io/model_config.hpp>

namespace blackmamba::io {

namespace detail {

using Family = ModelConfig::Family;

/// What one entry of `mamba_moe_layers` means to the published code: the first characters choose the block, the last one counts the
/// experts. So "12" is a dense MLP, and "21" a mixture of one expert.
inline LayerSpec layer_from_text(std::string_view text, Index layer, std::string const& file) {
  auto const fail = [&](std::string_view why) {
    throw file_error(concat(file, ": mamba_moe_layers gives layer ", layer, " as ", in_quotes(text), ", ", why));
  };
  LayerSpec spec;
  if (text.empty()) fail("which names no block");
  if (text[0] == 'r') spec.mamba = true;
  if (text == "r") return spec;
  if (text[spec.mamba ? 1 : 0] == '1') {
    spec.feed_forward = FeedForward::dense;
    return spec;
  }
  char const last = text.back();
  if (last < '0' || last > '9') fail("whose last character is not a number of experts");
  if (last == '0') fail("a mixture of 0 experts");
  spec.feed_forward = FeedForward::mixture;
  spec.experts = last - '0';
  return spec;
}

/// The shortest text with that meaning.
inline std::string text_of_layer(LayerSpec const& spec, std::size_t layer) {
  auto const fail = [&](auto const&... parts) { throw value_error(concat("write_config: layer ", layer, " ", parts...)); };
  std::string const block = spec.mamba ? "r" : "";
  switch (spec.feed_forward) {
    case FeedForward::none:
      if (!spec.mamba) fail("is empty");
      return block;
    case FeedForward::dense:
      return block + "1";
    case FeedForward::mixture:
      break;
  }
  if (spec.experts < 1) fail("has ", spec.experts, " experts, not at least 1");
  // The form has one digit; where that is too few, `num_experts` says the number.
  return spec.experts == 1 ? block + "21" : concat(block, std::min(spec.experts, Index{9}));
}

inline Activation activation_from_name(ConfigReader const& in, std::string const& key) {
  std::string const name = in.text(key, "gelu");
  if (name == "gelu") return Activation::gelu_erf;
  constexpr Activation known[]{Activation::identity, Activation::relu,     Activation::relu_squared,
                               Activation::silu,     Activation::gelu_erf, Activation::gelu_tanh};
  for (Activation const kind : known)
    if (name == to_string(kind)) return kind;
  in.fail(key, "is no activation that is known here: gelu, silu, gelu_tanh, relu, relu_squared, identity");
}

inline ModelConfig blackmamba_config(ConfigReader const& in) {
  ModelConfig out;
  out.family = Family::blackmamba;
  Dims& d = out.dims;
  d.vocab = in.size("vocab_size");
  d.d_model = in.size("hidden_size");
  d.d_state = in.size("state_size");
  d.d_conv = in.size("conv_dimension");
  d.d_inner = in.product("expansion_factor", in.positive("expansion_factor"), d.d_model);
  d.dt_rank = ceil_div(d.d_model, 16);
  d.d_ffn = in.present("ffn_hidden_size") ? in.size("ffn_hidden_size") : 4 * d.d_model;
  d.linear_bias = d.output_bias = in.flag("add_bias_linear");
  d.depth = in.layers("num_layers");
  out.gated = in.flag("swiglu");
  out.activation = activation_from_name(in, "activation");
  out.max_sequence_length = in.present("max_sequence_length") ? in.size("max_sequence_length") : 0;

  std::vector<std::string> const texts = in.texts("mamba_moe_layers");
  if (!texts.empty() && static_cast<Index>(texts.size()) < d.depth)
    in.fail("mamba_moe_layers", concat("has ", texts.size(), " entries for ", d.depth, " layers"));
  for (Index i = 0; i < d.depth; ++i) {
    out.layers.push_back(texts.empty() ? LayerSpec{.mamba = true}
                                       : layer_from_text(texts[static_cast<std::size_t>(i)], i, in.file()));
    d.n_experts = std::max(d.n_experts, out.layers.back().experts);
  }
  read_mixture_extensions(in, out);
  return out;
}

/// What both models of `transformers` share.
inline ModelConfig transformers_config(ConfigReader const& in, Family family) {
  ModelConfig out;
  out.family = family;
  bool const first = family == Family::mamba;
  Dims& d = out.dims;
  d.vocab = in.size("vocab_size");
  d.d_model = in.size("hidden_size");
  d.d_state = in.size("state_size", first ? 16 : 128);
  d.d_conv = in.size("conv_kernel", 4);
  d.depth = in.layers("num_hidden_layers");
  d.norm_epsilon = in.present("layer_norm_epsilon") ? in.positive("layer_norm_epsilon") : 1e-5;
  d.linear_bias = in.flag("use_bias", false);
  d.conv_bias = in.flag("use_conv_bias", true);
  d.tied = in.flag("tie_word_embeddings", first);
  d.d_inner = in.product("expand", in.present("expand") ? in.positive("expand") : 2, d.d_model);
  if (std::string const act = in.text("hidden_act", "silu"); act != "silu" && act != "swish")
    in.fail("hidden_act", "is not silu, the only one that these models have here");
  out.layers.assign(static_cast<std::size_t>(d.depth), LayerSpec{.mamba = true});
  return out;
}

inline ModelConfig mamba_config(ConfigReader const& in) {
  ModelConfig out = transformers_config(in, Family::mamba);
  out.dims.d_inner = in.size("intermediate_size", out.dims.d_inner);
  bool const automatic = !in.present("time_step_rank") || in.is_text("time_step_rank", "auto");
  out.dims.dt_rank = automatic ? ceil_div(out.dims.d_model, 16) : in.size("time_step_rank");
  return out;
}

inline ModelConfig mamba2_config(ConfigReader const& in) {
  ModelConfig out = transformers_config(in, Family::mamba2);
  Dims& d = out.dims;
  d.dt_rank = ceil_div(d.d_model, 16);  // these models have no such projection; the size is what an absent one would give
  d.n_groups = in.size("n_groups", 8);
  d.head_dim = in.size("head_dim", 64);
  Index const heads = in.size("num_heads", 128);
  if (heads * d.head_dim != d.d_inner)
    in.fail("num_heads",
            concat("times head_dim ", d.head_dim, " is ", heads * d.head_dim, ", not expand times hidden_size, ", d.d_inner));
  if (heads % d.n_groups != 0) in.fail("num_heads", concat("is not a multiple of n_groups ", d.n_groups));
  if (!in.flag("rms_norm", true)) in.fail("rms_norm", "is not true, and these models have no other norm here");
  d.dt_low = 0, d.dt_high = std::numeric_limits<double>::infinity();
  if (in.present("time_step_limit")) {
    auto const limits = in.numbers("time_step_limit", 2);
    d.dt_low = limits[0], d.dt_high = limits[1];
    if (!(d.dt_low >= 0 && d.dt_low < d.dt_high)) in.fail("time_step_limit", "is not a range of step sizes: 0 ≤ low < high");
  }
  return out;
}

}  // namespace detail

/// The configuration in the text of a `config.json`.
///
/// \param file  how messages call it
/// Throws `file_error` naming the file, the key and the value that is missing, of the wrong kind, or no size that a network can
/// have.
inline ModelConfig parse_config(std::string_view text, std::string const& file) {
  detail::ConfigReader const in{text, file};
  if (!in.present("model_type")) {
    if (in.present("num_layers")) return detail::blackmamba_config(in);
    throw file_error(concat(file, ": has neither model_type, as transformers writes, nor num_layers, as BlackMamba does"));
  }
  std::string const type = in.text("model_type", "");
  if (type == "blackmamba") return detail::blackmamba_config(in);
  if (type == "mamba") return detail::mamba_config(in);
  if (type == "mamba2") return detail::mamba2_config(in);
  in.fail("model_type", "is not one that can be read: mamba, mamba2, or none for BlackMamba");
}

/// Reads a `config.json`, or that of the folder `path`.
inline ModelConfig read_config(std::filesystem::path const& path) {
  std::error_code ignored;
  MappedFile const file{std::filesystem::is_directory(path, ignored) ? path / "config.json" : path};
  auto const bytes = file.bytes();
  return parse_config({reinterpret_cast<char const*>(bytes.data()), bytes.size()}, file.path());
}

/// The text of a `config.json` of the same family, which reads back as the same configuration.
///
/// Sizes that `Dims` leaves at 0 are written as what they mean. Throws `value_error` if the form has no place for something: layers
/// of 10 and of other numbers of experts, an epsilon of its own, a rank that does not follow from d_model.
std::string to_json(ModelConfig const& config);

/// Writes `to_json(config)`, atomically.
inline void write_config(std::filesystem::path const& path, ModelConfig const& config) {
  std::string const text = to_json(config);
  AtomicFile file{path};
  file.write(text);
  file.commit();
}

}  // namespace blackmamba::io

#include <blackmamba/io/config_writer.hpp>
