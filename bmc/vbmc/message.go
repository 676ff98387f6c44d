package vbmc

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// obj is a JSON object of a resource.
type obj = map[string]any

// message is a Redfish message (DSP0266 §8.6, "Error responses"): an HTTP
// status and an entry of the Base message registry.
type message struct {
	Status     int
	ID         string // key in the Base registry
	Text       string
	Args       []string
	Severity   string // "Warning" unless said
	Resolution string
	Property   string            // related property, JSON pointer
	Header     map[string]string // e.g. Allow
}

func (m *message) Error() string { return m.Text }

// registry is the message registry that our MessageIds name.
const registry = "Base.1.18."

// info is the message as an entry of @Message.ExtendedInfo.
func (m *message) info() obj {
	sev := m.Severity
	if sev == "" {
		sev = "Warning"
	}
	args := m.Args
	if args == nil {
		args = []string{}
	}
	res := m.Resolution
	if res == "" {
		res = "None."
	}
	o := obj{
		"@odata.type":     "#Message.v1_1_2.Message",
		"MessageId":       registry + m.ID,
		"Message":         m.Text,
		"MessageArgs":     args,
		"MessageSeverity": sev,
		"Severity":        sev,
		"Resolution":      res,
	}
	if m.Property != "" {
		o["RelatedProperties"] = []string{m.Property}
	}
	return o
}

// writeError answers with a Redfish error body.
func writeError(w http.ResponseWriter, ms ...*message) {
	infos := make([]obj, len(ms))
	for i, m := range ms {
		infos[i] = m.info()
		for k, v := range m.Header {
			w.Header().Set(k, v)
		}
	}
	code, text := registry+ms[0].ID, ms[0].Text
	if len(ms) > 1 {
		code, text = registry+"GeneralError", "A general error has occurred. See ExtendedInfo for more information."
	}
	writeJSON(w, ms[0].Status, obj{"error": obj{"code": code, "message": text, "@Message.ExtendedInfo": infos}})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil { // our own maps of strings and numbers always marshal
		http.Error(w, "cannot encode the resource", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that went away is its own matter
}

// The messages of the Base registry (DSP8011) that this service sends.

func msgNotFound(path string) *message {
	return &message{Status: http.StatusNotFound, ID: "ResourceMissingAtURI", Severity: "Critical", Args: []string{path},
		Text:       fmt.Sprintf("The resource at the URI '%s' was not found.", path),
		Resolution: "Place a valid resource at the URI or correct the URI and resubmit the request."}
}

func msgMethod(method, path, allow string) *message {
	return &message{Status: http.StatusMethodNotAllowed, ID: "OperationNotAllowed", Severity: "Critical",
		Text:       fmt.Sprintf("The HTTP method %s is not allowed on %s.", method, path),
		Resolution: "Use one of the methods in the Allow header.", Header: map[string]string{"Allow": allow}}
}

func msgNotImplemented(what string) *message {
	return &message{Status: http.StatusNotImplemented, ID: "GeneralError", Severity: "Critical",
		Text: fmt.Sprintf("This service does not implement %s.", what)}
}

func msgQuery(name string) *message {
	return &message{Status: http.StatusNotImplemented, ID: "QueryNotSupported", Text: fmt.Sprintf("Querying is not supported by the implementation: %s.", name),
		Resolution: "Remove the query parameters and resubmit the request if the operation failed."}
}

func msgQueryValue(name, value string) *message {
	return &message{Status: http.StatusBadRequest, ID: "QueryParameterValueFormatError", Args: []string{value, name},
		Text:       fmt.Sprintf("The value '%s' for the parameter %s is of a different format than the parameter can accept.", value, name),
		Resolution: "Correct the value for the query parameter in the request and resubmit the request if the operation failed."}
}

func msgUnauthorized() *message {
	return &message{Status: http.StatusUnauthorized, ID: "NoValidSession", Severity: "Critical",
		Text:       "There is no valid session established with the implementation.",
		Resolution: "Establish a session before attempting any operations.", Header: map[string]string{"WWW-Authenticate": `Basic realm="Redfish"`}}
}

func msgBadLogin() *message {
	return &message{Status: http.StatusUnauthorized, ID: "ResourceAtUriUnauthorized", Severity: "Critical",
		Args:       []string{root + "/SessionService/Sessions", "invalid user name or password"},
		Text:       "While accessing the resource at " + root + "/SessionService/Sessions, the service received an authorization error 'invalid user name or password'.",
		Resolution: "Ensure that the appropriate access is provided for the service in order for it to access the URI.",
		Header:     map[string]string{"WWW-Authenticate": `Basic realm="Redfish"`}}
}

func msgPrivilege() *message {
	return &message{Status: http.StatusForbidden, ID: "InsufficientPrivilege", Severity: "Critical",
		Text:       "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.",
		Resolution: "Either abandon the operation or change the associated access rights and resubmit the request if the operation failed."}
}

func msgSessionLimit() *message {
	return &message{Status: http.StatusServiceUnavailable, ID: "SessionLimitExceeded", Severity: "Critical",
		Text:       "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.",
		Resolution: "Reduce the number of other sessions before trying to establish the session or increase the limit of simultaneous sessions, if supported."}
}

func msgPrecondition() *message {
	return &message{Status: http.StatusPreconditionFailed, ID: "PreconditionFailed", Severity: "Critical",
		Text:       "The ETag supplied did not match the ETag required to change this resource.",
		Resolution: "Try the operation again using the appropriate ETag."}
}

func msgMalformed() *message {
	return &message{Status: http.StatusBadRequest, ID: "MalformedJSON", Severity: "Critical",
		Text:       "The request body submitted was malformed JSON and could not be parsed by the receiving service.",
		Resolution: "Ensure that the request body is valid JSON and resubmit the request."}
}

func msgTooLarge() *message {
	return &message{Status: http.StatusRequestEntityTooLarge, ID: "PayloadTooLarge", Severity: "Critical",
		Text: "The supplied payload exceeds the maximum size of the service."}
}

func msgMediaType(got string) *message {
	return &message{Status: http.StatusUnsupportedMediaType, ID: "GeneralError", Severity: "Critical",
		Text: fmt.Sprintf("The request body has the media type %q; this service reads application/json.", got)}
}

func msgUnknownProperty(name string) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyUnknown", Args: []string{name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The property %s is not in the list of valid properties for the resource.", name),
		Resolution: "Remove the unknown property from the request body and resubmit the request if the operation failed."}
}

func msgReadOnly(name string) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyNotWritable", Args: []string{name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The property %s is a read-only property and cannot be assigned a value.", name),
		Resolution: "Remove the property from the request body and resubmit the request if the operation failed."}
}

func msgNoOperation() *message {
	return &message{Status: http.StatusBadRequest, ID: "NoOperation",
		Text:       "The request body submitted contain no data to act upon and no changes to the resource took place.",
		Resolution: "Add properties in the JSON object and resubmit the request."}
}

func msgPropertyType(name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyValueTypeError", Args: []string{jsonText(v), name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The value '%s' for the property %s is of a different type than the property can accept.", jsonText(v), name),
		Resolution: "Correct the value for the property in the request body and resubmit the request if the operation failed."}
}

func msgNotInList(name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyValueNotInList", Args: []string{jsonText(v), name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The value '%s' for the property %s is not in the list of acceptable values.", jsonText(v), name),
		Resolution: "Choose a value from the enumeration list that the implementation can support and resubmit the request if the operation failed."}
}

func msgConflict(name, other string) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyValueConflict", Args: []string{name, other}, Property: "#/" + name,
		Text: fmt.Sprintf("The property '%s' could not be written because its value would conflict with the value of the '%s' property.", name, other)}
}

func msgMissing(name string) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyMissing", Args: []string{name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The property %s is a required property and must be included in the request.", name),
		Resolution: "Ensure that the property is in the request body and has a valid value and resubmit the request if the operation failed."}
}

func msgActionParamMissing(action, name string) *message {
	return &message{Status: http.StatusBadRequest, ID: "ActionParameterMissing", Args: []string{action, name}, Severity: "Critical",
		Text:       fmt.Sprintf("The action %s requires the parameter %s to be present in the request body.", action, name),
		Resolution: "Supply the action with the required parameter in the request body when the request is resubmitted."}
}

func msgActionParam(action, name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "ActionParameterNotSupported", Args: []string{name, action},
		Text:       fmt.Sprintf("The value '%s' for the parameter %s of the action %s is not supported on the target resource.", jsonText(v), name, action),
		Resolution: "Choose one of the values that the resource lists as allowable and resubmit the request if the operation failed."}
}

func msgActionParamType(action, name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "ActionParameterValueTypeError", Args: []string{jsonText(v), name, action},
		Text:       fmt.Sprintf("The value '%s' for the parameter %s in the action %s is of a different type than the parameter can accept.", jsonText(v), name, action),
		Resolution: "Correct the value for the parameter in the request body and resubmit the request if the operation failed."}
}

func msgActionParamFormat(action, name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "ActionParameterValueFormatError", Args: []string{jsonText(v), name, action},
		Text:       fmt.Sprintf("The value '%s' for the parameter %s in the action %s is of a different format than the parameter can accept.", jsonText(v), name, action),
		Resolution: "Correct the value for the parameter in the request body and resubmit the request if the operation failed."}
}

func msgActionParamUnknown(action, name string) *message {
	return &message{Status: http.StatusBadRequest, ID: "ActionParameterUnknown", Args: []string{action, name},
		Text:       fmt.Sprintf("The action %s was submitted with the invalid parameter %s.", action, name),
		Resolution: "Correct the invalid parameter and resubmit the request if the operation failed."}
}

func msgPropertyFormat(name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyValueFormatError", Args: []string{jsonText(v), name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The value '%s' for the property %s is of a different format than the property can accept.", jsonText(v), name),
		Resolution: "Correct the value for the property in the request body and resubmit the request if the operation failed."}
}

func msgOutOfRange(name string, v any) *message {
	return &message{Status: http.StatusBadRequest, ID: "PropertyValueOutOfRange", Args: []string{jsonText(v), name}, Property: "#/" + name,
		Text:       fmt.Sprintf("The value '%s' for the property %s is not in the supported range of acceptable values.", jsonText(v), name),
		Resolution: "Correct the value for the property in the request body and resubmit the request if the operation failed."}
}

func msgInUse() *message {
	return &message{Status: http.StatusConflict, ID: "ResourceInUse",
		Text:       "The change to the requested resource failed because the resource is in use or in transition.",
		Resolution: "Remove the condition and resubmit the request if the operation failed."}
}

func msgInternal() *message {
	return &message{Status: http.StatusInternalServerError, ID: "InternalError", Severity: "Critical",
		Text:       "The request failed due to an internal service error.  The service is still operational.",
		Resolution: "Resubmit the request.  If the problem persists, consider resetting the service."}
}

func msgLimit() *message {
	return &message{Status: http.StatusBadRequest, ID: "CreateLimitReachedForResource", Severity: "Critical",
		Text:       "The create operation failed because the resource has reached the limit of possible resources.",
		Resolution: "Either delete resources and resubmit the request if the operation failed or do not resubmit the request."}
}

func msgExists(kind, name, value string) *message {
	return &message{Status: http.StatusBadRequest, ID: "ResourceAlreadyExists", Severity: "Critical", Args: []string{kind, name, value},
		Text: fmt.Sprintf("The requested resource of type %s with the property %s with the value '%s' already exists.", kind, name, value)}
}

func jsonText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
