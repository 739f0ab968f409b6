#include "frontend/inspect/metadata.h"

#include <nlohmann/json.hpp>

namespace postern::inspect {
namespace {

using Json = nlohmann::json;
using Ordered = nlohmann::ordered_json;
using Texts = std::map<std::string, std::string>;

Problem malformed(const std::string& what) {
  return Problem{.what = "the image's metadata is malformed: " + what};
}

// Missing and null members are empty.
Outcome<> take(const Json& object, const char* member, std::string& out) {
  const auto it = object.find(member);
  if (it == object.end() || it->is_null()) {
    return Ok{};
  }
  if (!it->is_string()) {
    return malformed(std::string(member) + " is not text");
  }
  out = it->get<std::string>();
  return Ok{};
}

Outcome<> take(const Json& object, const char* member, Texts& out) {
  const auto it = object.find(member);
  if (it == object.end() || it->is_null()) {
    return Ok{};
  }
  if (!it->is_object()) {
    return malformed(std::string(member) + " is not an object");
  }
  for (const auto& [key, value] : it->items()) {
    out[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return Ok{};
}

template <class Part>
Outcome<> take_common(const Json& object, Part& part) {
  POSTERN_TRY(take(object, "environment", part.environment));
  POSTERN_TRY(take(object, "labels", part.labels));
  POSTERN_TRY(take(object, "runscript", part.runscript));
  POSTERN_TRY(take(object, "test", part.test));
  POSTERN_TRY(take(object, "helpfile", part.helpfile));
  return Ok{};
}

// nlohmann-json throws on wrong input only where it is told to; this never does.
Json parse(std::string_view json) {
  return Json::parse(json, nullptr, false);
}

template <class Part>
Ordered common_json(const Part& part) {
  Ordered out = Ordered::object();
  if (!part.environment.empty()) {
    out["environment"] = part.environment;
  }
  if (!part.labels.empty()) {
    out["labels"] = part.labels;
  }
  const auto text = [&](const char* member, const std::string& value) {
    if (!value.empty()) {
      out[member] = value;
    }
  };
  text("runscript", part.runscript);
  text("test", part.test);
  text("helpfile", part.helpfile);
  return out;
}

template <class Part>
void select_common(const Part& from, const Selection& want, Part& to) {
  if (want.labels || want.all) {
    to.labels = from.labels;
  }
  if (want.environment || want.all) {
    to.environment = from.environment;
  }
  if (want.runscript || want.all) {
    to.runscript = from.runscript;
  }
  if (want.test || want.all) {
    to.test = from.test;
  }
  if (want.helpfile || want.all) {
    to.helpfile = from.helpfile;
  }
}

template <class Part>
std::string common_text(const Part& part, const std::string& startscript) {
  std::string text;
  for (const std::string* section : {&part.runscript, &startscript, &part.test, &part.helpfile}) {
    if (!section->empty()) {
      text += *section + "\n";
    }
  }
  for (const auto& [path, script] : part.environment) {
    text += "=== " + path + " ===\n" + script + "\n\n";
  }
  for (const auto& [name, value] : part.labels) {
    text += name + ": " + value + "\n";
  }
  return text;
}

}  // namespace

Outcome<Metadata> select(const Metadata& metadata, const Selection& want) {
  Metadata out;
  const bool one_app = !want.app.empty() && !want.all;
  if (one_app) {
    const auto app = metadata.apps.find(want.app);
    if (app == metadata.apps.end()) {
      return Problem{.what = "the image has no app '" + want.app + "'",
                     .cure = "`inspect --list-apps` shows what it has"};
    }
    select_common(app->second, want, out.apps[want.app]);
  } else {
    select_common(metadata, want, out);
    if (want.startscript || want.all) {
      out.startscript = metadata.startscript;
    }
  }
  if (want.deffile || want.all) {
    out.deffile = metadata.deffile;  // one for the whole image
  }
  if (want.list_apps || want.all) {
    for (const auto& [name, app] : metadata.apps) {
      out.apps.emplace(name, app);
    }
  }
  return out;
}

Outcome<Metadata> parse_metadata(std::string_view text) {
  const Json json = parse(text);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_object()) {
    return malformed("not a JSON object with the member data");
  }
  Metadata metadata;
  const auto attributes = json["data"].find("attributes");
  if (attributes == json["data"].end() || !attributes->is_object()) {
    return metadata;
  }
  POSTERN_TRY(take_common(*attributes, metadata));
  POSTERN_TRY(take(*attributes, "deffile", metadata.deffile));
  POSTERN_TRY(take(*attributes, "startscript", metadata.startscript));
  const auto apps = attributes->find("apps");
  if (apps != attributes->end() && apps->is_object()) {
    for (const auto& [name, app] : apps->items()) {
      if (!app.is_object()) {
        return malformed("an app is not an object");
      }
      POSTERN_TRY(take_common(app, metadata.apps[name]));
    }
  }
  return metadata;
}

Outcome<Texts> parse_labels(std::string_view text) {
  Json wrapped = Json::object();
  wrapped["labels"] = parse(text);
  if (wrapped["labels"].is_discarded() || !wrapped["labels"].is_object()) {
    return malformed("labels.json is not a JSON object");
  }
  Texts labels;
  POSTERN_TRY(take(wrapped, "labels", labels));
  return labels;
}

std::string to_json(const Metadata& metadata) {
  Ordered attributes = Ordered::object();
  if (!metadata.apps.empty()) {
    Ordered apps = Ordered::object();
    for (const auto& [name, app] : metadata.apps) {
      apps[name] = common_json(app);
    }
    attributes["apps"] = std::move(apps);
  }
  const Ordered common = common_json(metadata);
  for (const auto& [key, value] : common.items()) {
    attributes[key] = value;
  }
  if (!metadata.deffile.empty()) {
    attributes["deffile"] = metadata.deffile;
  }
  if (!metadata.startscript.empty()) {
    attributes["startscript"] = metadata.startscript;
  }
  Ordered json;
  json["data"]["attributes"] = std::move(attributes);
  json["type"] = "container";
  // Scripts may hold any bytes: what is not UTF-8 becomes U+FFFD instead of an exception.
  return json.dump(1, '\t', false, Ordered::error_handler_t::replace) + "\n";
}

std::string to_text(const Metadata& metadata, const Selection& want) {
  std::string text;
  if (want.list_apps) {
    for (const auto& [name, app] : metadata.apps) {
      text += name + "\n";
    }
  }
  if (!metadata.deffile.empty()) {
    text += metadata.deffile + "\n";
  }
  const auto app = metadata.apps.find(want.app);
  if (!want.app.empty() && app != metadata.apps.end()) {
    return text + common_text(app->second, "");
  }
  return text + common_text(metadata, metadata.startscript);
}

std::string without_control(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 0xf];
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace postern::inspect
