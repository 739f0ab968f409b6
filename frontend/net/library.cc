#include "frontend/net/library.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/net/digest.h"
#include "policy/json/strict.h"
#include "policy/text/hex.h"
#include "policy/text/percent.h"

namespace postern::net {
namespace {

using Kind = json::Value::Kind;

constexpr std::uint64_t kMultipartFrom = std::uint64_t{64} << 20;
constexpr json::Limits kLimits{.bytes = std::size_t{4} << 20, .depth = 16};

std::string text_of(const json::Value& object, std::string_view name) {
  const json::Value* value = object.find(name, Kind::kString);
  return value != nullptr ? value->text : "";
}

std::uint64_t number_of(const json::Value& object, std::string_view name) {
  const json::Value* value = object.find(name, Kind::kUnsigned);
  return value != nullptr ? value->number : 0;
}

// The envelope {"data": …}.
Outcome<json::Value> data_of(const Answer& answer) {
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(answer.body, kLimits));
  const json::Value* data = document.find("data");
  return data != nullptr ? *data : json::Value{};
}

Problem refused(const std::string& what, const Answer& answer) {
  Problem problem = unexpected_answer(what + ": request did not succeed", answer);
  if (answer.status == 401 || answer.status == 403) {
    problem.cure = "log in to the library: postern remote login";
  }
  return problem;
}

bool is_good(const Answer& answer) {
  return answer.status == 200 || answer.status == 201 || answer.status == 204;
}

std::string quoted(std::string_view text) {
  return json::quoted(text);
}

// Names go into a URL's path: the grammar of references lets no other bytes through than these.
std::string image_path(const std::string& path,
                       const std::string& tag,
                       const std::string& architecture) {
  return path + ":" + tag + "?arch=" + text::percent_encode(architecture);
}

}  // namespace

Outcome<LibraryImage> parse_library_image(std::string_view body) {
  constexpr std::string_view kSha256 = "sha256.";
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(body, kLimits));
  const json::Value* data = document.find("data", Kind::kObject);
  if (data == nullptr) {
    return Problem{.what = "the library's answer describes no image"};
  }
  LibraryImage out{
      .id = text_of(*data, "id"), .hash = text_of(*data, "hash"), .size = number_of(*data, "size")};
  const json::Value* uploaded = data->find("uploaded", Kind::kBool);
  out.uploaded = uploaded != nullptr && uploaded->boolean;
  const bool good = out.hash.starts_with(kSha256) &&
                    text::is_lower_hex(std::string_view(out.hash).substr(kSha256.size()), 64);
  if (!good) {
    return Problem{.what = "the library names the image's bytes by '" + out.hash.substr(0, 100) +
                           "', which is no SHA-256"};
  }
  return out;
}

Request Library::request(std::string method, const std::string& path) const {
  Request out{.method = std::move(method), .url = base_ + "/" + path};
  if (!token_.empty()) {
    out.authorization = "Bearer " + token_;
  }
  return out;
}

Outcome<std::optional<LibraryImage>> Library::image(const std::string& path,
                                                    const std::string& tag,
                                                    const std::string& architecture) {
  POSTERN_TRY_ASSIGN(
      const Answer answer,
      client_->perform(request("GET", "v1/images/" + image_path(path, tag, architecture))));
  if (answer.status == 404) {
    return std::optional<LibraryImage>();
  }
  if (answer.status != 200) {
    return refused("asking " + base_ + " for " + path + ":" + tag, answer);
  }
  POSTERN_TRY_ASSIGN(LibraryImage out, parse_library_image(answer.body));
  return std::optional(std::move(out));
}

Request Library::file_request(const std::string& path,
                              const std::string& tag,
                              const std::string& architecture) const {
  return request("GET", "v1/imagefile/" + image_path(path, tag, architecture));
}

Outcome<> Library::remove(const std::string& path,
                          const std::string& tag,
                          const std::string& architecture,
                          unsigned seconds) {
  Request remove = request("DELETE", "v1/images/" + image_path(path, tag, architecture));
  remove.seconds = seconds;
  POSTERN_TRY_ASSIGN(const Answer answer, client_->perform(remove));
  return answer.status == 200 ? Outcome<>() : refused("deleting " + path + ":" + tag, answer);
}

// ---- upload

Outcome<std::string> Library::find_or_create(const std::string& find,
                                             const std::string& create,
                                             const std::string& document) {
  POSTERN_TRY_ASSIGN(Answer answer, client_->perform(request("GET", find)));
  if (answer.status == 404) {
    Request post = request("POST", create);
    post.headers.push_back({"Content-Type", "application/json"});
    post.body = document;
    POSTERN_TRY_ASSIGN(answer, client_->perform(post));
  }
  if (!is_good(answer)) {
    return refused("making " + find, answer);
  }
  POSTERN_TRY_ASSIGN(const json::Value data, data_of(answer));
  const std::string id = text_of(data, "id");
  return id.empty() ? Outcome<std::string>(Problem{.what = "the library gives " + find + " no id"})
                    : id;
}

Outcome<> Library::send_part(const std::string& image,
                             const Upload& upload,
                             const std::string& id,
                             std::uint64_t number,
                             std::uint64_t part_size,
                             bool signed_parts,
                             std::string& tokens) {
  const std::uint64_t offset = (number - 1) * part_size;
  const std::uint64_t size = std::min(part_size, upload.bytes - std::min(upload.bytes, offset));
  std::string sum;
  if (signed_parts) {
    Sha256 hash;
    std::vector<std::byte> piece(std::size_t{1} << 20);
    for (std::uint64_t at = 0; at < size;) {
      const ssize_t got =
          ::pread(upload.file, piece.data(), std::min<std::uint64_t>(piece.size(), size - at),
                  static_cast<off_t>(offset + at));
      if (got <= 0) {
        return Problem{.what = "the image became shorter while it was sent"};
      }
      hash.update(std::span(piece).first(static_cast<std::size_t>(got)));
      at += static_cast<std::uint64_t>(got);
    }
    sum = hash.hex();
  }
  Request ask = request("PUT", "v2/imagefile/" + image + "/_multipart");
  ask.headers.push_back({"Content-Type", "application/json"});
  ask.body = "{\"partSize\":" + std::to_string(size) + ",\"uploadID\":" + quoted(id) +
             ",\"partNumber\":" + std::to_string(number) + ",\"sha256sum\":" + quoted(sum) + "}";
  POSTERN_TRY_ASSIGN(const Answer place, client_->perform(ask));
  if (!is_good(place)) {
    return refused("uploading part " + std::to_string(number), place);
  }
  POSTERN_TRY_ASSIGN(const json::Value data, data_of(place));
  // Presigned: this URL carries its own permission, and gets no token.
  Request put{.method = "PUT", .url = text_of(data, "presignedURL")};
  put.file = upload.file;
  put.file_offset = offset;
  put.file_bytes = size;
  if (!sum.empty()) {
    put.headers.push_back({"x-amz-content-sha256", sum});
  }
  POSTERN_TRY_ASSIGN(const Answer done, client_->perform(put));
  const std::string* tag = done.header("etag");
  if (done.status != 200 || tag == nullptr) {
    return refused("uploading part " + std::to_string(number), done);
  }
  tokens += std::string(tokens.empty() ? "" : ",") + "{\"partNumber\":" + std::to_string(number) +
            ",\"token\":" + quoted(*tag) + "}";
  return Ok{};
}

namespace {

void take_completion(const Answer& answer, Library::Uploaded& out) {
  const auto data = data_of(answer);
  if (!data) {
    return;  // an empty body says nothing about quotas
  }
  out.container_url = text_of(*data, "containerUrl");
  if (const json::Value* quota = data->find("quota", Kind::kObject); quota != nullptr) {
    out.quota = true;
    out.quota_total = number_of(*quota, "quotaTotal");
    out.quota_usage = number_of(*quota, "quotaUsage");
  }
}

}  // namespace

// False: the library knows no uploads in parts.
Outcome<bool> Library::send_parts(const std::string& image, const Upload& upload, Uploaded& out) {
  Request begin = request("POST", "v2/imagefile/" + image + "/_multipart");
  begin.headers.push_back({"Content-Type", "application/json"});
  begin.body = "{\"filesize\":" + std::to_string(upload.bytes) + "}";
  POSTERN_TRY_ASSIGN(const Answer begun, client_->perform(begin));
  if (begun.status == 404) {
    return false;
  }
  if (!is_good(begun)) {
    return refused("beginning the upload", begun);
  }
  POSTERN_TRY_ASSIGN(const json::Value data, data_of(begun));
  const std::string id = text_of(data, "uploadID");
  const std::uint64_t parts = number_of(data, "totalParts");
  const std::uint64_t size = number_of(data, "partSize");
  if (size == 0 || parts == 0 || parts > upload.bytes / size + 1 || id.empty()) {
    return Problem{.what = "the library's plan for the upload makes no sense"};
  }
  const json::Value* options = data.find("options", Kind::kObject);
  const bool signed_parts = options == nullptr || text_of(*options, "s3compliant") != "false";
  std::string tokens;
  for (std::uint64_t number = 1; number <= parts; ++number) {
    if (auto sent = send_part(image, upload, id, number, size, signed_parts, tokens); !sent) {
      Request abort = request("PUT", "v2/imagefile/" + image + "/_multipart_abort");
      abort.body = "{\"uploadID\":" + quoted(id) + "}";
      (void)client_->perform(abort);  // the library forgets half uploads by itself too
      return std::move(sent).error();
    }
  }
  Request complete = request("PUT", "v2/imagefile/" + image + "/_multipart_complete");
  complete.headers.push_back({"Content-Type", "application/json"});
  complete.body = "{\"uploadID\":" + quoted(id) + ",\"completedParts\":[" + tokens + "]}";
  POSTERN_TRY_ASSIGN(const Answer done, client_->perform(complete));
  if (!is_good(done)) {
    return refused("completing the upload", done);
  }
  take_completion(done, out);
  return true;
}

Outcome<> Library::send_file(const std::string& image, const Upload& upload, Uploaded& out) {
  if (upload.bytes > kMultipartFrom) {
    POSTERN_TRY_ASSIGN(const bool sent, send_parts(image, upload, out));
    if (sent) {
      return Ok{};
    }
  }
  Request begin = request("POST", "v2/imagefile/" + image);
  begin.headers.push_back({"Content-Type", "application/json"});
  begin.body = "{\"filesize\":" + std::to_string(upload.bytes) +
               ",\"md5sum\":" + quoted(upload.md5) + ",\"sha256sum\":" + quoted(upload.sha256) +
               "}";
  POSTERN_TRY_ASSIGN(const Answer begun, client_->perform(begin));
  if (begun.status == 404) {  // the oldest libraries take the bytes themselves
    Request post = request("POST", "v1/imagefile/" + image);
    post.file = upload.file;
    post.file_bytes = upload.bytes;
    post.headers.push_back({"Content-Type", "application/octet-stream"});
    POSTERN_TRY_ASSIGN(const Answer done, client_->perform(post));
    return is_good(done) ? Outcome<>() : refused("uploading the image", done);
  }
  if (!is_good(begun)) {
    return refused("beginning the upload", begun);
  }
  POSTERN_TRY_ASSIGN(const json::Value data, data_of(begun));
  Request put{.method = "PUT", .url = text_of(data, "uploadURL")};
  put.file = upload.file;
  put.file_bytes = upload.bytes;
  put.headers.push_back({"Content-Type", "application/octet-stream"});
  if (put.url.find("x-amz-content-sha256") != std::string::npos) {
    put.headers.push_back({"x-amz-content-sha256", upload.sha256});
  }
  POSTERN_TRY_ASSIGN(const Answer sent, client_->perform(put));
  if (sent.status != 200) {
    return refused("uploading the image", sent);
  }
  Request complete = request("PUT", "v2/imagefile/" + image + "/_complete");
  complete.headers.push_back({"Content-Type", "application/json"});
  complete.body = "{}";
  POSTERN_TRY_ASSIGN(const Answer done, client_->perform(complete));
  if (!is_good(done)) {
    return refused("completing the upload", done);
  }
  take_completion(done, out);
  return Ok{};
}

Outcome<Library::Uploaded> Library::upload(const Upload& upload) {
  const std::size_t first = upload.path.find('/');
  const std::size_t second = first == std::string::npos ? first : upload.path.find('/', first + 1);
  if (second == std::string::npos || upload.path.find('/', second + 1) != std::string::npos) {
    return Problem{.what = "bad request: malformed image path: '" + upload.path + "'",
                   .cure = "an image in a library is named ENTITY/COLLECTION/CONTAINER[:TAG]"};
  }
  const std::string entity = upload.path.substr(0, first);
  const std::string collection = upload.path.substr(first + 1, second - first - 1);
  const std::string container = upload.path.substr(second + 1);
  const std::string nothing = "\"description\":\"No description\"";
  POSTERN_TRY_ASSIGN(const std::string entity_id,
                     find_or_create("v1/entities/" + entity, "v1/entities",
                                    "{\"name\":" + quoted(entity) + "," + nothing + "}"));
  POSTERN_TRY_ASSIGN(const std::string collection_id,
                     find_or_create("v1/collections/" + entity + "/" + collection, "v1/collections",
                                    "{\"name\":" + quoted(collection) + "," + nothing +
                                        ",\"entity\":" + quoted(entity_id) + "}"));
  POSTERN_TRY_ASSIGN(const std::string container_id,
                     find_or_create("v1/containers/" + upload.path, "v1/containers",
                                    "{\"name\":" + quoted(container) + "," + nothing +
                                        ",\"collection\":" + quoted(collection_id) + "}"));
  const std::string hash = "sha256." + upload.sha256;
  POSTERN_TRY_ASSIGN(std::optional<LibraryImage> image,
                     this->image(upload.path, hash, upload.architecture));
  if (!image) {
    Request post = request("POST", "v1/images");
    post.headers.push_back({"Content-Type", "application/json"});
    post.body = "{\"hash\":" + quoted(hash) + ",\"description\":" + quoted(upload.description) +
                ",\"container\":" + quoted(container_id) + "}";
    POSTERN_TRY_ASSIGN(const Answer answer, client_->perform(post));
    if (!is_good(answer)) {
      return refused("making the image", answer);
    }
    POSTERN_TRY_ASSIGN(image, parse_library_image(answer.body));
  }
  Uploaded out;
  out.was_there = image->uploaded;
  if (!image->uploaded) {
    POSTERN_TRY(send_file(image->id, upload, out));
  }
  for (const std::string& tag : upload.tags) {
    Request post = request("POST", "v2/tags/" + container_id);
    post.headers.push_back({"Content-Type", "application/json"});
    post.body = "{\"Arch\":" + quoted(upload.architecture) + ",\"Tag\":" + quoted(tag) +
                ",\"ImageID\":" + quoted(image->id) + "}";
    POSTERN_TRY_ASSIGN(Answer answer, client_->perform(post));
    if (answer.status == 404) {
      post.url = base_ + "/v1/tags/" + container_id;
      post.body = "{\"Tag\":" + quoted(tag) + ",\"ImageID\":" + quoted(image->id) + "}";
      POSTERN_TRY_ASSIGN(answer, client_->perform(post));
    }
    if (!is_good(answer)) {
      return refused("setting the tag " + tag, answer);
    }
  }
  return out;
}

// ---- search

Outcome<std::vector<Library::Found>> Library::search(const std::string& text,
                                                     const std::string& architecture,
                                                     bool only_signed) {
  POSTERN_TRY_ASSIGN(
      const Answer answer,
      client_->perform(request("GET", "v1/search?value=" + text::percent_encode(text) +
                                          "&arch=" + text::percent_encode(architecture) +
                                          (only_signed ? "&signed=true" : ""))));
  if (answer.status != 200) {
    return refused("searching " + base_, answer);
  }
  POSTERN_TRY_ASSIGN(const json::Value data, data_of(answer));
  std::vector<Found> out;
  const json::Value* images = data.find("image", Kind::kArray);
  for (const json::Value& image : images != nullptr ? images->items : std::vector<json::Value>{}) {
    Found found;
    found.name = "library://" + text_of(image, "entityName") + "/" +
                 text_of(image, "collectionName") + "/" + text_of(image, "containerName") + ":";
    std::string tags;
    if (const json::Value* list = image.find("tags", Kind::kArray); list != nullptr) {
      for (const json::Value& tag : list->items) {
        tags += (tags.empty() ? "" : ",") + tag.text;
      }
    }
    found.name += tags.empty() ? text_of(image, "hash") : tags;
    found.description = text_of(image, "description");
    if (const json::Value* list = image.find("fingerprints", Kind::kArray); list != nullptr) {
      for (const json::Value& fingerprint : list->items) {
        found.fingerprints.push_back(fingerprint.text);
      }
    }
    out.push_back(std::move(found));
  }
  std::sort(out.begin(), out.end(), [](const Found& a, const Found& b) { return a.name < b.name; });
  return out;
}

}  // namespace postern::net
