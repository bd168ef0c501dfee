#pragma once
/// \file
/// The text of a `config.json`: see `to_json` in config.hpp.

#include <blackmamba/io/config.hpp>

namespace blackmamba::io {

namespace detail {

/// Every size spelt out, as reading a file leaves it.
inline ModelConfig spelt_out(ModelConfig config) {
  Dims& d = config.dims;
  d.d_inner = d.inner(), d.dt_rank = d.rank(), d.depth = static_cast<Index>(config.layers.size()), d.n_experts = 0;
  for (LayerSpec const& layer : config.layers) d.n_experts = std::max(d.n_experts, layer.experts);
  return config;
}

/// The factor by which reading multiplies d_model to get d_inner: whole where it can be.
inline Json expansion(Dims const& d) {
  if (d.d_inner % d.d_model == 0) return d.d_inner / d.d_model;
  double factor = static_cast<double>(d.d_inner) / static_cast<double>(d.d_model);
  while (std::floor(factor * static_cast<double>(d.d_model)) < static_cast<double>(d.d_inner))
    factor = std::nextafter(factor, std::numeric_limits<double>::infinity());
  return factor;
}

inline Json blackmamba_json(ModelConfig const& config) {
  Dims const& d = config.dims;
  Json layers = Json::array();
  for (std::size_t i = 0; i < config.layers.size(); ++i) layers.push_back(text_of_layer(config.layers[i], i));
  Json out{{"num_layers", d.depth},      {"hidden_size", d.d_model},   {"state_size", d.d_state},
           {"conv_dimension", d.d_conv}, {"vocab_size", d.vocab},      {"expansion_factor", expansion(d)},
           {"mamba_moe_layers", layers}, {"ffn_hidden_size", d.d_ffn}, {"add_bias_linear", d.linear_bias},
           {"swiglu", config.gated}};
  // The published loader asks for this key and never looks at its value.
  out["max_sequence_length"] = config.max_sequence_length ? Json(config.max_sequence_length) : Json(nullptr);
  if (config.activation != Activation::gelu_erf) out["activation"] = to_string(config.activation);
  write_mixture_extensions(config, out);
  return out;
}

inline Json transformers_json(ModelConfig const& config) {
  Dims const& d = config.dims;
  Json out{{"model_type", to_string(config.family)},
           {"num_hidden_layers", d.depth},
           {"hidden_size", d.d_model},
           {"state_size", d.d_state},
           {"conv_kernel", d.d_conv},
           {"vocab_size", d.vocab},
           {"expand", expansion(d)},
           {"layer_norm_epsilon", d.norm_epsilon},
           {"use_bias", d.linear_bias},
           {"use_conv_bias", d.conv_bias},
           {"tie_word_embeddings", d.tied},
           {"hidden_act", "silu"}};
  if (config.family == Family::mamba) {
    out["architectures"] = {"MambaForCausalLM"};
    out["intermediate_size"] = d.d_inner;
    out["time_step_rank"] = d.dt_rank;
    return out;
  }
  auto const number = [](double x) -> Json { return std::isinf(x) ? Json{{"__float__", "Infinity"}} : Json(x); };
  if (d.head_dim < 1) throw value_error(concat("write_config: head_dim is ", d.head_dim, ", not at least 1"));
  out["architectures"] = {"Mamba2ForCausalLM"};
  out["n_groups"] = d.n_groups;
  out["head_dim"] = d.head_dim;
  out["num_heads"] = d.d_inner / d.head_dim;
  out["time_step_limit"] = Json::array({number(d.dt_low), number(d.dt_high)});
  return out;
}

/// Names the first thing that does not come back.
inline void check_written(ModelConfig const& config, ModelConfig const& back) {
  auto const check = [](char const* name, auto const& wanted, auto const& got) {
    if (!(wanted == got))
      throw value_error(
          concat("write_config: ", name, " is ", wanted, ", which config.json has no place for: it would be read as ", got));
  };
  Dims const &a = config.dims, &b = back.dims;
  check("dt_rank", a.dt_rank, b.dt_rank), check("top_k", a.top_k, b.top_k), check("n_groups", a.n_groups, b.n_groups);
  check("head_dim", a.head_dim, b.head_dim), check("norm_epsilon", a.norm_epsilon, b.norm_epsilon);
  check("dt_low", a.dt_low, b.dt_low), check("dt_high", a.dt_high, b.dt_high), check("conv_bias", a.conv_bias, b.conv_bias);
  check("linear_bias", a.linear_bias, b.linear_bias), check("output_bias", a.output_bias, b.output_bias),
      check("tied", a.tied, b.tied);
  check("d_ffn", a.d_ffn, b.d_ffn), check("gated", config.gated, back.gated);
  check("shared", a.shared, b.shared);
  check("max_sequence_length", config.max_sequence_length, back.max_sequence_length);
  check("activation", std::string{to_string(config.activation)}, std::string{to_string(back.activation)});
  if (config != back) throw value_error("write_config: the layers are not those of a network of this family");
}

}  // namespace detail

inline std::string to_json(ModelConfig const& config) {
  check_dims(config.dims);
  ModelConfig const full = detail::spelt_out(config);
  auto const json =
      full.family == ModelConfig::Family::blackmamba ? detail::blackmamba_json(full) : detail::transformers_json(full);
  std::string const text = json.dump(1) + "\n";
  detail::check_written(full, parse_config(text, "config.json"));
  return text;
}

}  // namespace blackmamba::io
