// Which applications does the peer know from the start? One for each way to authenticate, one with awkward characters.
// More can be registered while it runs (RFC 7591), each with an access-token lifetime of its own.

const consenting = {
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
};
const machine = {
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
};

/** The clients of a fresh server; every consenting one may be sent back to each of `redirectUris`. */
export function initialClients(redirectUris) {
  return [
    { client_id: 'web', client_secret: 'web-secret', redirect_uris: redirectUris, ...consenting },
    {
      client_id: 'webpost',
      client_secret: 'webpost-secret',
      token_endpoint_auth_method: 'client_secret_post',
      redirect_uris: redirectUris,
      ...consenting,
    },
    { client_id: 'spa', token_endpoint_auth_method: 'none', redirect_uris: redirectUris, ...consenting },
    { client_id: 'm2m', client_secret: 'm2m-secret', ...machine },
    // RFC 6749 section 2.3.1: both are form-urlencoded before they become HTTP Basic credentials
    { client_id: 'odd:client/id', client_secret: 'p%40ss+w/rd &=%', ...machine },
  ];
}
