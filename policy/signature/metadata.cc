#include "policy/signature/metadata.h"

#include <algorithm>

#include "policy/json/strict.h"

namespace postern::signature {
namespace {

using json::Value;

Outcome<Digest> digest_member(const Value& object, std::string_view name) {
  const Value* text = object.find(name, Value::Kind::kString);
  if (text == nullptr) {
    return Problem{"'" + std::string(name) + "' is missing or not a string"};
  }
  return parse_digest(text->text);
}

Outcome<ObjectDigests> parse_object(const Value& value) {
  if (value.kind != Value::Kind::kObject) {
    return Problem{"an entry of 'objects' is not an object"};
  }
  ObjectDigests out;
  if (const Value* id = value.find("relativeId"); id != nullptr && id->kind != Value::Kind::kNull) {
    if (id->kind != Value::Kind::kUnsigned || id->number > UINT32_MAX) {
      return Problem{"'relativeId' is not a whole number below 2^32"};
    }
    out.relative_id = static_cast<std::uint32_t>(id->number);
  }
  POSTERN_TRY_ASSIGN(out.descriptor, digest_member(value, "descriptorDigest"));
  POSTERN_TRY_ASSIGN(out.object, digest_member(value, "objectDigest"));
  return out;
}

Outcome<Metadata> parse_value(const Value& root) {
  if (root.kind != Value::Kind::kObject) {
    return Problem{"not a JSON object"};
  }
  const Value* version = root.find("version", Value::Kind::kUnsigned);
  if (version == nullptr || version->number != 1) {
    return Problem{"'version' is not 1"};
  }
  const Value* header = root.find("header", Value::Kind::kObject);
  if (header == nullptr) {
    return Problem{"'header' is missing or not an object"};
  }
  Metadata out;
  POSTERN_TRY_ASSIGN(out.header, digest_member(*header, "digest"));
  const Value* objects = root.find("objects");
  if (objects == nullptr || objects->kind == Value::Kind::kNull) {
    return out;
  }
  if (objects->kind != Value::Kind::kArray) {
    return Problem{"'objects' is not a list"};
  }
  std::vector<std::uint32_t> ids;
  for (const Value& entry : objects->items) {
    POSTERN_TRY_ASSIGN(const ObjectDigests object, parse_object(entry));
    ids.push_back(object.relative_id);
    out.objects.push_back(object);
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) {
    return Problem{"an object is listed twice"};
  }
  return out;
}

}  // namespace

Outcome<Metadata> parse_metadata(std::string_view json) {
  auto root = json::parse(json);
  auto out = root ? parse_value(*root) : Outcome<Metadata>(std::move(root).error());
  if (!out) {
    return Problem{"signature metadata: " + out.error().what};
  }
  return out;
}

std::string write_metadata(const Metadata& metadata) {
  std::string out =
      R"({"version":1,"header":{"digest":")" + digest_text(metadata.header) + R"("},"objects":[)";
  for (std::size_t i = 0; i < metadata.objects.size(); ++i) {
    const ObjectDigests& object = metadata.objects[i];
    out += i == 0 ? "{" : ",{";
    out += R"("relativeId":)" + std::to_string(object.relative_id) + R"(,"descriptorDigest":")" +
           digest_text(object.descriptor) + R"(","objectDigest":")" + digest_text(object.object) +
           "\"}";
  }
  return out + "]}";
}

}  // namespace postern::signature
