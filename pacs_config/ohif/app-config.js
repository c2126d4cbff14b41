// OHIF 3.13 before Orthanc, same origin: `radloop viewer` serves this file in place of the build's.
window.config = {
  routerBasename: '/',
  extensions: [],
  modes: [],
  showStudyList: true,
  maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' },
  showErrorDetails: 'always',
  // OHIF says only "request failed" where a save is refused: show the sentence that came with it.
  httpErrorHandler: error => {
    if (error.status === 403) {
      window.alert(String(error.response));
    }
  },
  // A measurement without coordinates (an SR of another maker) would crash the viewport.
  customizationService: [
    {
      onBeforeSRAddMeasurement: {
        $set: ({ measurement }) =>
          measurement.coords?.length ? measurement : { ...measurement, coords: [{}] },
      },
    },
  ],
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        wadoUriRoot: '/wado',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        supportsReject: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        dicomUploadEnabled: false,
        enableStudyLazyLoad: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        singlepart: 'bulkdata,video',
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
        omitQuotationForMultipartRequest: true,
        acceptHeader: ['multipart/related; type=application/octet-stream; transfer-syntax=*'],
      },
    },
  ],
};
