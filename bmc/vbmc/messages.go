package vbmc

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// ownMessages is our own registry: what DMTF's has no words for.
var ownMessages = map[string]entry{
	"LogEntryAdded":         {"OK", "%1", "None."},
	"TriggerCrossed":        {"Warning", "%1 reads %2: %3 the threshold %4 (%5) of trigger %6.", "Look at what the metric measures."},
	"TaskFailed":            {"Critical", "The task failed: %1.", "Mend what the message names, and start the task again."},
	"NotImplemented":        {"Critical", "This service does not implement %1.", "Do without it."},
	"MediaTypeNotSupported": {"Critical", "The request body has the media type '%1', which this service does not read.", "Send application/json."},
	"ImageNotFetched":       {"Critical", "The image at '%1' could not be fetched: %2.", "Ensure that the image can be read at the URI."},
	"NotAcceptable":         {"Critical", "The resource has no representation of the media types '%1'.", "Accept another media type."},
}

// Resolutions that several entries of Base share.
const (
	correctProperty  = "Correct the value for the property in the request body and resubmit the request if the operation failed."
	correctParameter = "Correct the value for the parameter in the request body and resubmit the request if the operation failed."
	chooseValue      = "Choose a value from the enumeration list that the implementation can support and resubmit the request if the operation failed."
	removeQuery      = "Remove the query parameters and resubmit the request if the operation failed."
)

// baseMessages are the entries of DMTF's Base registry (DSP8011) that this
// service sends, as they stand there.
var baseMessages = map[string]entry{
	"ActionParameterMissing":          {"Critical", "The action %1 requires the parameter %2 to be present in the request body.", "Supply the action with the required parameter in the request body when the request is resubmitted."},
	"ActionParameterUnknown":          {"Warning", "The action %1 was submitted with the invalid parameter %2.", "Correct the invalid action parameter and resubmit the request if the operation failed."},
	"ActionParameterValueError":       {"Warning", "The value for the parameter %1 in the action %2 is invalid.", correctParameter},
	"ActionParameterValueFormatError": {"Warning", "The value '%1' for the parameter %2 in the action %3 is of a different format than the parameter can accept.", correctParameter},
	"ActionParameterValueNotInList":   {"Warning", "The value '%1' for the parameter %2 in the action %3 is not in the list of acceptable values.", chooseValue},
	"ActionParameterValueTypeError":   {"Warning", "The value '%1' for the parameter %2 in the action %3 is of a different type than the parameter can accept.", correctParameter},
	"ArraySizeTooLong":                {"Warning", "The array provided for property %1 exceeds the size limit %2.", "Resubmit the request with an appropriate array size."},
	"CouldNotEstablishConnection":     {"Critical", "The service failed to establish a connection with the URI '%1'.", "Ensure that the URI contains a valid and reachable node name, protocol information and other URI components."},
	"CreateLimitReachedForResource":   {"Critical", "The create operation failed because the resource has reached the limit of possible resources.", "Either delete resources and resubmit the request if the operation failed or do not resubmit the request."},
	"EventSubscriptionLimitExceeded":  {"Critical", "The event subscription failed due to the number of simultaneous subscriptions exceeding the limit of the implementation.", "Reduce the number of other subscriptions before trying to establish the event subscription or increase the limit of simultaneous subscriptions, if supported."},
	"GeneralError":                    {"Critical", "A general error has occurred.  See Resolution for information on how to resolve the error, or @Message.ExtendedInfo if Resolution is not provided.", "None."},
	"HeaderInvalid":                   {"Critical", "Header '%1' is invalid.", "Resubmit the request with a valid request header."},
	"InsufficientPrivilege":           {"Critical", "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.", "Either abandon the operation or change the associated access rights and resubmit the request if the operation failed."},
	"InternalError":                   {"Critical", "The request failed due to an internal service error.  The service is still operational.", "Resubmit the request.  If the problem persists, consider resetting the service."},
	"MalformedJSON":                   {"Critical", "The request body submitted was malformed JSON and could not be parsed by the receiving service.", "Ensure that the request body is valid JSON and resubmit the request."},
	"NoOperation":                     {"Warning", "The request body submitted contain no data to act upon and no changes to the resource took place.", "Add properties in the JSON object and resubmit the request."},
	"NoValidSession":                  {"Critical", "There is no valid session established with the implementation.", "Establish a session before attempting any operations."},
	"OperationNotAllowed":             {"Critical", "The HTTP method is not allowed on this resource.", "None."},
	"PasswordChangeRequired":          {"Critical", "The password provided for this account must be changed before access is granted.  PATCH the Password property for this account located at the target URI '%1' to complete this process.", "Change the password for this account using a PATCH to the Password property at the URI provided."},
	"PayloadTooLarge":                 {"Critical", "The supplied payload exceeds the maximum size supported by the service.", "Check that the supplied payload is correct and supported by this service."},
	"PreconditionFailed":              {"Critical", "The ETag supplied did not match the ETag required to change this resource.", "Try the operation again using the appropriate ETag."},
	"PropertyMissing":                 {"Warning", "The property %1 is a required property and must be included in the request.", "Ensure that the property is in the request body and has a valid value and resubmit the request if the operation failed."},
	"PropertyNotWritable":             {"Warning", "The property %1 is a read only property and cannot be assigned a value.", "Remove the property from the request body and resubmit the request if the operation failed."},
	"PropertyUnknown":                 {"Warning", "The property %1 is not in the list of valid properties for the resource.", "Remove the unknown property from the request body and resubmit the request if the operation failed."},
	"PropertyValueConflict":           {"Warning", "The property '%1' could not be written because its value would conflict with the value of the '%2' property.", "No resolution is required."},
	"PropertyValueError":              {"Warning", "The value provided for the property %1 is not valid.", correctProperty},
	"PropertyValueFormatError":        {"Warning", "The value '%1' for the property %2 is of a different format than the property can accept.", correctProperty},
	"PropertyValueNotInList":          {"Warning", "The value '%1' for the property %2 is not in the list of acceptable values.", chooseValue},
	"PropertyValueOutOfRange":         {"Warning", "The value '%1' for the property %2 is not in the supported range of acceptable values.", correctProperty},
	"PropertyValueTypeError":          {"Warning", "The value '%1' for the property %2 is of a different type than the property can accept.", correctProperty},
	"QueryCombinationInvalid":         {"Warning", "Two or more query parameters in the request cannot be used together.", "Remove one or more of the query parameters and resubmit the request if the operation failed."},
	"QueryNotSupportedOnResource":     {"Warning", "Querying is not supported on the requested resource.", removeQuery},
	"QueryParameterUnsupported":       {"Warning", "Query parameter '%1' is not supported.", "Correct or remove the query parameter and resubmit the request."},
	"QueryParameterValueFormatError":  {"Warning", "The value '%1' for the parameter %2 is of a different format than the parameter can accept.", "Correct the value for the query parameter in the request and resubmit the request if the operation failed."},
	"ResourceAlreadyExists":           {"Critical", "The requested resource of type %1 with the property %2 with the value '%3' already exists.", "Do not repeat the create operation as the resource has already been created."},
	"ResourceAtUriUnauthorized":       {"Critical", "While accessing the resource at '%1', the service received an authorization error '%2'.", "Ensure that the appropriate access is provided for the service in order for it to access the URI."},
	"ResourceCannotBeDeleted":         {"Critical", "The delete request failed because the resource requested cannot be deleted.", "Do not attempt to delete a non-deletable resource."},
	"ResourceInUse":                   {"Warning", "The change to the requested resource failed because the resource is in use or in transition.", "Remove the condition and resubmit the request if the operation failed."},
	"ResourceMissingAtURI":            {"Critical", "The resource at the URI '%1' was not found.", "Place a valid resource at the URI or correct the URI and resubmit the request."},
	"ServiceTemporarilyUnavailable":   {"Critical", "The service is temporarily unavailable.  Retry in %1 seconds.", "Wait for the indicated retry duration and retry the operation."},
	"SessionLimitExceeded":            {"Critical", "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.", "Reduce the number of other sessions before trying to establish the session or increase the limit of simultaneous sessions, if supported."},
	"Success":                         {"OK", "The request completed successfully.", "None."},
}

// bad is a message with status 400.
func bad(id string, args ...string) *message {
	return &message{Status: http.StatusBadRequest, ID: id, Args: args}
}

// about is a message with status 400 that names a property as related.
func about(property, id string, args ...string) *message {
	return &message{Status: http.StatusBadRequest, ID: id, Args: args, Property: "#/" + property}
}

func msgNotFound(path string) *message {
	return &message{Status: http.StatusNotFound, ID: "ResourceMissingAtURI", Args: []string{path}}
}

func msgMethod(method, path, allow string) *message {
	return &message{Status: http.StatusMethodNotAllowed, ID: "OperationNotAllowed", Header: map[string]string{"Allow": allow},
		Resolution: "Use one of the methods in the Allow header: " + path + " has no " + method + "."}
}

func msgNotImplemented(what string) *message {
	return &message{Status: http.StatusNotImplemented, ID: "NotImplemented", Args: []string{what}}
}

// msgQuery refuses a query parameter that begins with $ (DSP0266 §7.3.1).
func msgQuery(name string) *message {
	return &message{Status: http.StatusNotImplemented, ID: "QueryParameterUnsupported", Args: []string{name}}
}

func msgQueryHere(name string) *message {
	m := bad("QueryNotSupportedOnResource")
	m.Resolution = "Remove the query parameter " + name + " and resubmit the request."
	return m
}

func msgQueryValue(name, value string) *message {
	return bad("QueryParameterValueFormatError", value, name)
}

// challenge says how to authenticate (RFC 9110 §11.6.1).
func challenge() map[string]string {
	return map[string]string{"WWW-Authenticate": `Basic realm="Redfish"`}
}

func msgUnauthorized() *message {
	return &message{Status: http.StatusUnauthorized, ID: "NoValidSession", Header: challenge()}
}

func msgBadLogin() *message {
	return &message{Status: http.StatusUnauthorized, ID: "ResourceAtUriUnauthorized", Args: []string{sessionsPath, "invalid user name or password"}, Header: challenge()}
}

func msgPrivilege() *message {
	return &message{Status: http.StatusForbidden, ID: "InsufficientPrivilege"}
}

func msgPasswordChange(account string) *message {
	return &message{Status: http.StatusForbidden, ID: "PasswordChangeRequired", Args: []string{account}}
}

func msgSessionLimit() *message {
	return &message{Status: http.StatusServiceUnavailable, ID: "SessionLimitExceeded"}
}

func msgPrecondition() *message {
	return &message{Status: http.StatusPreconditionFailed, ID: "PreconditionFailed"}
}

func msgHeader(name string) *message {
	return &message{Status: http.StatusPreconditionFailed, ID: "HeaderInvalid", Args: []string{name}}
}

func msgNotAcceptable(accept, have string) *message {
	return &message{Status: http.StatusNotAcceptable, ID: "NotAcceptable", Args: []string{accept}, Resolution: "Accept " + have + "."}
}

func msgMalformed() *message { return bad("MalformedJSON") }

func msgTooLarge() *message {
	return &message{Status: http.StatusRequestEntityTooLarge, ID: "PayloadTooLarge"}
}

func msgMediaType(got string) *message {
	return &message{Status: http.StatusUnsupportedMediaType, ID: "MediaTypeNotSupported", Args: []string{got}}
}

func msgUnknownProperty(name string) *message { return about(name, "PropertyUnknown", name) }

func msgReadOnly(name string) *message { return about(name, "PropertyNotWritable", name) }

func msgNoOperation() *message { return bad("NoOperation") }

func msgPropertyType(name string, v any) *message {
	return about(name, "PropertyValueTypeError", jsonText(v), name)
}

func msgNotInList(name string, v any) *message {
	return about(name, "PropertyValueNotInList", jsonText(v), name)
}

func msgConflict(name, other string) *message {
	return about(name, "PropertyValueConflict", name, other)
}

func msgMissing(name string) *message { return about(name, "PropertyMissing", name) }

func msgPropertyFormat(name string, v any) *message {
	return about(name, "PropertyValueFormatError", jsonText(v), name)
}

func msgOutOfRange(name string, v any) *message {
	return about(name, "PropertyValueOutOfRange", jsonText(v), name)
}

func msgActionParamMissing(action, name string) *message {
	return bad("ActionParameterMissing", action, name)
}

func msgActionParam(action, name string, v any) *message {
	return bad("ActionParameterValueNotInList", jsonText(v), name, action)
}

func msgActionParamType(action, name string, v any) *message {
	return bad("ActionParameterValueTypeError", jsonText(v), name, action)
}

func msgActionParamFormat(action, name string, v any) *message {
	return bad("ActionParameterValueFormatError", jsonText(v), name, action)
}

func msgActionParamUnknown(action, name string) *message {
	return bad("ActionParameterUnknown", action, name)
}

// msgConnection says that nothing was read from a URI; how tells what to do instead.
func msgConnection(uri, how string) *message {
	m := bad("CouldNotEstablishConnection", uri)
	m.Resolution = how
	return m
}

func msgInUse() *message { return &message{Status: http.StatusConflict, ID: "ResourceInUse"} }

func msgInternal() *message {
	return &message{Status: http.StatusInternalServerError, ID: "InternalError"}
}

func msgLimit() *message { return bad("CreateLimitReachedForResource") }

func msgExists(kind, name, value string) *message {
	return bad("ResourceAlreadyExists", kind, name, value)
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
