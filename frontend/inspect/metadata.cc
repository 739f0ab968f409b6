#include "frontend/inspect/metadata.h"

#include <nlohmann/json.hpp>

#include "policy/json/document.h"

namespace postern::inspect {
namespace {

using Json = nlohmann::json;
using Ordered = nlohmann::ordered_json;
using Texts = std::map<std::string, std::string>;

Problem malformed(const std::string& what) {
  return Problem{.what = "the image's metadata is malformed: " + what};
}

// Takes the members of one object. Missing and null ones are empty; malformed ones are left out.
class Members {
 public:
  Members(const Json& object, std::string prefix, std::vector<std::string>& left_out)
      : object_(object), prefix_(std::move(prefix)), left_out_(left_out) {}

  void take(const char* member, std::string& out) {
    const Json* value = find(member);
    if (value != nullptr && !value->is_string()) {
      leave_out(member, "not text");
    } else if (value != nullptr) {
      out = value->get<std::string>();
    }
  }

  void take(const char* member, Texts& out) {
    const Json* object = find(member);
    if (object == nullptr) {
      return;
    }
    if (!object->is_object()) {
      leave_out(member, "not an object");
      return;
    }
    for (const auto& [key, value] : object->items()) {
      out[key] = value.is_string() ? value.get<std::string>() : dump(value);
    }
  }

  template <class Part>
  void take_common(Part& part) {
    take("environment", part.environment);
    take("labels", part.labels);
    take("runscript", part.runscript);
    take("test", part.test);
    take("helpfile", part.helpfile);
  }

 private:
  const Json* find(const char* member) const {
    const auto it = object_.find(member);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  void leave_out(const char* member, const char* why) {
    left_out_.push_back(prefix_ + member + " is " + why);
  }

  static std::string dump(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  const Json& object_;
  std::string prefix_;
  std::vector<std::string>& left_out_;
};

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
  out.left_out = metadata.left_out;
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
  const Json json = postern::json::parse_document(text);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_object()) {
    return malformed("not a JSON object with the member data");
  }
  Metadata metadata;
  const auto attributes = json["data"].find("attributes");
  if (attributes == json["data"].end() || !attributes->is_object()) {
    return metadata;
  }
  Members members(*attributes, "", metadata.left_out);
  members.take_common(metadata);
  members.take("deffile", metadata.deffile);
  members.take("startscript", metadata.startscript);
  const auto apps = attributes->find("apps");
  if (apps != attributes->end() && !apps->is_null() && !apps->is_object()) {
    metadata.left_out.emplace_back("apps is not an object");
  } else if (apps != attributes->end() && apps->is_object()) {
    for (const auto& [name, app] : apps->items()) {
      if (app.is_object()) {
        Members(app, "apps." + name + ".", metadata.left_out).take_common(metadata.apps[name]);
      } else {
        metadata.left_out.push_back("apps." + name + " is not an object");
      }
    }
  }
  return metadata;
}

Outcome<Texts> parse_labels(std::string_view text) {
  Json wrapped = Json::object();
  wrapped["labels"] = postern::json::parse_document(text);
  if (wrapped["labels"].is_discarded() || !wrapped["labels"].is_object()) {
    return malformed("labels.json is not a JSON object");
  }
  Texts labels;
  std::vector<std::string> none;
  Members(wrapped, "", none).take("labels", labels);
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

}  // namespace postern::inspect
