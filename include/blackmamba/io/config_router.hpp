#pragma once
/// \file
/// What `config.json` says of mixtures beyond the published form, under keys that the published loader does not look at:
///
///   "router": "bias"                 by name; absent: "top1", which is what the published model does at inference
///   "router_options": {"rate": 0.01, "scope": "global", …}   those of `RouterOptions` that are not the defaults
///   "num_experts": 16                of every mixture, in place of the digit of mamba_moe_layers
///   "top_k": 2, "shared_experts": 1

#include <string>

#include <blackmamba/io/config_reader.hpp>
#include <blackmamba/io/model_config.hpp>
#include <blackmamba/layers/routers/list.hpp>

namespace blackmamba::io::detail {

inline constexpr char const* balance_scope_names[]{"batch", "sequence", "global"};

/// Calls `visit(key, option)` for every option of a router but its kind and scope.
template <class Options, class Visit>
void for_each_router_option(Options& o, Visit&& visit) {
  visit("normalise", o.normalise), visit("capacity_factor", o.capacity_factor), visit("z_coefficient", o.z_coefficient);
  visit("balance", o.balance), visit("rate", o.rate), visit("average", o.average), visit("groups", o.groups),
      visit("groups_kept", o.groups_kept);
  visit("iterations", o.iterations);
}

inline RouterOptions router_options(ConfigReader const& in) {
  RouterOptions out;
  try {
    out.kind = Routers::index(in.text("router", "top1"));
  } catch (value_error const& e) {
    in.fail("router", e.what());
  }
  if (!in.present("router_options")) return out;
  Json options = in.object("router_options");
  auto const fail = [&](std::string const& key, char const* what) {
    throw file_error(concat(in.file(), ": router_options: ", key, ", ", describe(options.at(key)), ", is not ", what));
  };
  for_each_router_option(out, [&]<class Option>(char const* key, Option& option) {
    if (!options.contains(key)) return;
    Json const& value = options.at(key);
    if constexpr (std::is_same_v<Option, bool>) {
      if (!value.is_boolean()) fail(key, "true or false");
    } else if constexpr (std::is_same_v<Option, Index>) {
      if (!is_index(value)) fail(key, "a whole number");
    } else {
      if (!value.is_number()) fail(key, "a number");
    }
    option = value.template get<Option>();
    options.erase(key);
  });
  if (options.contains("scope")) {
    Index scope = 0;
    while (scope < 3 && options.at("scope") != balance_scope_names[scope]) ++scope;
    if (scope == 3) fail("scope", "batch, sequence or global");
    out.scope = static_cast<BalanceScope>(scope);
    options.erase("scope");
  }
  if (!options.empty())
    throw file_error(concat(in.file(), ": router_options has ", in_quotes(options.begin().key()), ", which is no option"));
  return out;
}

/// Fills in what the keys above say; the layers have been read.
inline void read_mixture_extensions(ConfigReader const& in, ModelConfig& config) {
  Dims& d = config.dims;
  if (in.present("num_experts")) {
    Index const experts = in.size("num_experts");
    for (LayerSpec& layer : config.layers)
      if (layer.feed_forward == FeedForward::mixture) layer.experts = experts, d.n_experts = experts;
  }
  d.top_k = in.size("top_k", 1);
  if (in.present("shared_experts")) d.shared = in.size("shared_experts");
  d.router = router_options(in);
  try {
    for (LayerSpec const& layer : config.layers)
      if (layer.feed_forward == FeedForward::mixture) {
        check_router_options(d.router, layer.experts);
        check_value(d.top_k <= layer.experts, "dims", "top_k is ", d.top_k, ", more than the ", layer.experts,
                    " experts of a layer");
      }
  } catch (value_error const& e) {
    throw file_error(concat(in.file(), ": ", e.what()));
  }
}

/// Adds to a configuration's JSON what the published form has no place for.
inline void write_mixture_extensions(ModelConfig const& config, Json& out) {
  Dims const& d = config.dims;
  if (d.n_experts > 9) out["num_experts"] = d.n_experts;
  if (d.top_k != 1) out["top_k"] = d.top_k;
  if (d.shared != 0) out["shared_experts"] = d.shared;
  if (d.router == RouterOptions{}) return;
  out["router"] = Routers::names()[static_cast<std::size_t>(d.router.kind)];
  RouterOptions const standard;
  Json options = Json::object();
  for_each_router_option(d.router, [&]<class Option>(char const* key, Option const& option) {
    for_each_router_option(standard, [&]<class Same>(char const* other, Same const& usual) {
      if constexpr (std::is_same_v<Option, Same>)
        if (std::string_view{key} == other && option != usual) options[key] = option;
    });
  });
  if (d.router.scope != standard.scope) options["scope"] = balance_scope_names[static_cast<int>(d.router.scope)];
  if (!options.empty()) out["router_options"] = options;
}

}  // namespace blackmamba::io::detail
